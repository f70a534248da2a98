//! `devices` lists what sits in the VM's PCI slots; `remove-device --wait` looks until a device has gone. Both read `vm.info`.

use api::DeviceNode;
use serde_json::{Value, json};

use crate::output::{Format, columns, plain};
use crate::payload::Payload;
use crate::remote::{Remote, RemoteError};
use crate::wait::VM_INFO;

/// Sections of the configuration with lists of devices, and what one of them is called.
const LISTS: [(&str, &str); 8] = [
    ("disks", "disk"),
    ("net", "net"),
    ("fs", "fs"),
    ("pmem", "pmem"),
    ("vdpa", "vdpa"),
    ("generic_vhost_user", "generic-vhost-user"),
    ("devices", "vfio"),
    ("user_devices", "vfio-user"),
];

/// Why a device that was to go is still there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StayError {
    /// The guest does not let go of it.
    #[error(
        "The guest has not let go of '{0}' yet: see that it has booted and listens, then remove it again"
    )]
    Overdue(String),
    /// Nobody can say.
    #[error("Error asking for the VM's devices")]
    Remote(#[from] RemoteError),
    /// The reply is no JSON.
    #[error("The VMM tells no devices")]
    Reply(#[from] serde_json::Error),
}

/// The text of `devices`, made from the reply of `vm.info`.
///
/// # Errors
/// The reply is no JSON.
pub(crate) fn render(info: &[u8], format: Format) -> Result<Vec<u8>, serde_json::Error> {
    let info: Value = serde_json::from_slice(info)?;
    let nodes = info["device_tree"].as_object().into_iter().flatten();
    let rows = nodes.filter_map(|(name, node)| {
        let id = name.strip_prefix(DeviceNode::TRANSPORT).unwrap_or(name);
        let state = node["removal"].as_str().map_or("present".to_owned(), |how| format!("removal {how}"));
        Some([id.to_owned(), node["pci_bdf"].as_str()?.to_owned(), kind(&info["config"], id), state])
    });
    let mut rows: Vec<_> = rows.collect();
    // In the order of their places.
    rows.sort_by(|a, b| a[1].cmp(&b[1]));
    Ok(match format {
        Format::Json => {
            let list: Vec<_> = rows
                .iter()
                .map(|[id, bdf, kind, state]| json!({"id": id, "bdf": bdf, "kind": kind, "state": state}))
                .collect();
            format!("{}\n", Value::from(list)).into_bytes()
        }
        Format::Table => {
            let heads = ["DEVICE", "ADDRESS", "KIND", "STATE"].map(String::from).to_vec();
            let rows = rows.into_iter().map(Vec::from);
            columns(&std::iter::once(heads).chain(rows).collect::<Vec<_>>()).into_bytes()
        }
    })
}

/// What a device is, as far as the configuration still has it. Devices that belong to the machine are named after it.
fn kind(config: &Value, id: &str) -> String {
    let has = |section: &Value| section["id"] == id;
    let lists = LISTS.iter().find(|(list, _)| config[list].as_array().is_some_and(|all| all.iter().any(has)));
    let single = || Some(id.strip_prefix("__")?.to_owned());
    let vsock = || has(&config["vsock"]).then(|| "vsock".to_owned());
    lists.map(|(_, kind)| (*kind).to_owned()).or_else(single).or_else(vsock).unwrap_or_else(|| "-".to_owned())
}

/// Looks until the device `id` has gone. `pause` comes between two looks.
///
/// # Errors
/// [`StayError`].
pub(crate) fn wait_until_gone(
    remote: &dyn Remote,
    id: &str,
    mut pause: impl FnMut(),
) -> Result<(), StayError> {
    let id = id.strip_prefix(DeviceNode::TRANSPORT).unwrap_or(id);
    let transport = [DeviceNode::TRANSPORT, id].concat();
    loop {
        let info = remote.call(VM_INFO, &Payload::default())?.unwrap_or_default();
        let info: Value = serde_json::from_slice(&info)?;
        let nodes = [&transport, id].map(|name| &info["device_tree"][name]);
        let Some(node) = nodes.into_iter().find(|node| !node.is_null()) else { return Ok(()) };
        if node.get("removal").map(plain).as_deref() == Some("overdue") {
            return Err(StayError::Overdue(id.to_owned()));
        }
        pause();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::events::EventsError;
    use crate::remote::Each;

    const INFO: &str = r#"{"config":{"disks":[{"id":"d"}],"vsock":{"id":"_vsock0"}},"device_tree":{
        "__ged":{"id":"__ged"},"__rng":{"id":"__rng"},
        "_virtio-pci-_vsock0":{"pci_bdf":"0000:00:04.0"},
        "_virtio-pci-__rng":{"pci_bdf":"0000:00:02.0"},
        "_virtio-pci-d":{"pci_bdf":"0000:00:01.0"},"_virtio-pci-e":{"pci_bdf":"0001:00:01.0","removal":"overdue"}}}"#;

    #[test]
    fn a_row_for_each_slot_that_is_taken() {
        let text = |format| String::from_utf8(render(INFO.as_bytes(), format).unwrap()).unwrap();
        assert_eq!(
            text(Format::Table),
            "DEVICE   ADDRESS       KIND   STATE\nd        0000:00:01.0  disk   present\n\
             __rng    0000:00:02.0  rng    present\n_vsock0  0000:00:04.0  vsock  present\n\
             e        0001:00:01.0  -      removal overdue\n"
        );
        let list: Value = serde_json::from_str(&text(Format::Json)).unwrap();
        let expected = json!({"id": "d", "bdf": "0000:00:01.0", "kind": "disk", "state": "present"});
        assert_eq!((list.as_array().unwrap().len(), &list[0]), (4, &expected));
        assert!(render(b"no JSON", Format::Table).is_err());
        assert_eq!(render(b"{}", Format::Json).unwrap(), b"[]\n");
    }

    /// Gives its replies one by one.
    struct Script(RefCell<Vec<&'static str>>);

    impl Remote for Script {
        fn events(&self, _: bool, _: &mut Each<'_>) -> Result<(), EventsError> {
            Ok(())
        }

        fn call(&self, _: &str, _: &Payload) -> Result<Option<Vec<u8>>, RemoteError> {
            Ok(Some(self.0.borrow_mut().remove(0).into()))
        }
    }

    #[test]
    fn a_device_is_waited_for_until_it_has_gone_or_stays() {
        let pending = r#"{"device_tree":{"_virtio-pci-e":{"removal":"pending"},"e":{}}}"#;
        let run = |script: Vec<&'static str>, id| {
            let mut pauses = 0;
            let ended = wait_until_gone(&Script(RefCell::new(script)), id, || pauses += 1);
            (ended.map_err(|e| e.to_string()), pauses)
        };
        assert_eq!(run(vec![pending, pending, "{}"], "e"), (Ok(()), 2));
        assert_eq!(run(vec![pending, r#"{"device_tree":{}}"#], "_virtio-pci-e"), (Ok(()), 1));
        let (ended, _) = run(vec![pending, INFO], "e");
        assert!(ended.unwrap_err().contains("has not let go of 'e'"));
    }
}
