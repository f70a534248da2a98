//! `echo`: a device that gives back what it is given. It exists for tests, and as the example of `ARCHITECTURE.md`.

use serde::{Deserialize, Serialize};

use crate::check::Scope;
use crate::devices::{Name, Section};
use crate::pci::{PciCommon, Placed};
use crate::plan::DeviceKind;
use crate::queues;

/// The echo device.
pub type EchoConfig = Placed<Echo>;

/// The echo device's own field. The check adds nothing to it, so it is the plan's, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Echo {
    /// Descriptors of its queue: a power of 2.
    pub queue_size: u16,
}

impl Default for Echo {
    fn default() -> Self {
        Self { queue_size: 64 }
    }
}

impl Section for Echo {
    fn name(&self) -> Name {
        Name::Prefix("_echo")
    }

    fn kind(&self) -> Option<DeviceKind> {
        Some(DeviceKind::Echo(*self))
    }

    fn check(&self, pci: &PciCommon, at: &mut Scope<'_, '_>) {
        queues::check_size(at, "queue_size", self.queue_size);
        at.place(pci);
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::DeviceKind;
    use crate::{Echo, VmConfig, check};

    fn config(echo: &str) -> VmConfig {
        let text = format!(r#"{{"payload":{{"kernel":"/k"}},"echo":{echo}}}"#);
        VmConfig::from_json(text.as_bytes()).unwrap().0
    }

    #[test]
    fn it_is_planned_with_an_id_of_its_own() {
        let plan = check(config(r#"{"queue_size":8}"#)).unwrap();
        let echo = plan.devices.last().unwrap();
        assert_eq!((echo.id.as_str(), &echo.kind), ("_echo0", &DeviceKind::Echo(Echo { queue_size: 8 })));
    }

    #[test]
    fn its_rules_and_those_of_its_place() {
        for (echo, field) in
            [(r#"{"queue_size":3}"#, "echo.queue_size"), (r#"{"pci_device_id":32}"#, "echo.pci_device_id")]
        {
            let problems = check(config(echo)).unwrap_err();
            assert_eq!(problems.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(), [field]);
        }
    }
}
