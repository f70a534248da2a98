//! `cpus` and `--cpus` (`spec/config.md` §2).

use std::str::FromStr;

use keyval::Syntax;
use serde::{Deserialize, Serialize};

use crate::check::Scope;
use crate::flag::FlagError;
use crate::words::{self, UnknownWord};

/// As many vCPUs as a machine can have.
const VCPU_LIMIT: u32 = 8192;

/// The virtual CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CpusConfig {
    /// vCPUs present at boot, from 1.
    pub boot_vcpus: u32,
    /// vCPUs that hot-plug can reach, from `boot_vcpus` to 8192.
    pub max_vcpus: u32,
    /// How the guest sees them grouped.
    #[serde(default, deserialize_with = "keyval::spelled_opt", skip_serializing_if = "Option::is_none")]
    pub topology: Option<CpuTopology>,
    /// Hyper-V enlightenments.
    #[serde(default)]
    pub kvm_hyperv: bool,
    /// Upper bound of the guest's physical address width in bits.
    #[serde(default = "default_max_phys_bits")]
    pub max_phys_bits: u8,
    /// Host CPUs each vCPU may run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Vec<CpuAffinity>>,
    /// Optional CPU features.
    #[serde(default)]
    pub features: CpuFeatures,
    /// The guest may run guests of its own.
    #[serde(default = "crate::yes")]
    pub nested: bool,
    /// Who may share a physical core.
    #[serde(default, deserialize_with = "keyval::spelled")]
    pub core_scheduling: CoreScheduling,
    /// CPU model.
    #[serde(default)]
    pub profile: CpuProfile,
}

/// `threads:cores:dies:packages`; the product is `max_vcpus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CpuTopology {
    /// 1 or 2.
    pub threads_per_core: u16,
    /// From 1.
    pub cores_per_die: u16,
    /// From 1.
    pub dies_per_package: u16,
    /// From 1.
    pub packages: u16,
}

/// The host CPUs of one vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CpuAffinity {
    /// vCPU number.
    pub vcpu: u32,
    /// Host CPU numbers.
    pub host_cpus: Vec<usize>,
}

/// CPU features that are off unless asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct CpuFeatures {
    /// Advanced Matrix Extensions.
    pub amx: bool,
}

/// Which threads may share a core with a vCPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum CoreScheduling {
    /// vCPUs of the same machine.
    #[default]
    Vm,
    /// None.
    Vcpu,
    /// Any.
    Off,
}

/// The CPU model shown to the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum CpuProfile {
    /// The host's own.
    #[default]
    Host,
}

impl FromStr for CoreScheduling {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        words::any_case(word, &[("vm", Self::Vm), ("vcpu", Self::Vcpu), ("off", Self::Off)])
    }
}

impl FromStr for CpuTopology {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let wrong = || UnknownWord(text.to_owned());
        let parts: Vec<u16> =
            text.split(':').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
        let [threads_per_core, cores_per_die, dies_per_package, packages] =
            <[u16; 4]>::try_from(parts).map_err(|_| wrong())?;
        Ok(Self { threads_per_core, cores_per_die, dies_per_package, packages })
    }
}

impl Default for CpusConfig {
    fn default() -> Self {
        Self {
            boot_vcpus: 1,
            max_vcpus: 1,
            topology: None,
            kvm_hyperv: false,
            max_phys_bits: default_max_phys_bits(),
            affinity: None,
            features: CpuFeatures::default(),
            nested: true,
            core_scheduling: CoreScheduling::default(),
            profile: CpuProfile::default(),
        }
    }
}

fn default_max_phys_bits() -> u8 {
    46
}

impl CpusConfig {
    /// Options of `--cpus`.
    pub const SYNTAX: Syntax = Syntax::new(
        "boot=<boot_vcpus>,max=<max_vcpus>,topology=<threads_per_core>:<cores_per_die>:<dies_per_package>:<packages>,\
         kvm_hyperv=on|off,max_phys_bits=<bits>,affinity=<list of vcpu@[host cpus]>,features=<list of features>,\
         nested=on|off,core_scheduling=vm|vcpu|off",
    )
    .hidden(&["profile"])
    .renamed(&[("boot", "boot_vcpus"), ("max", "max_vcpus")]);

    /// Reads `--cpus`; `max` is `boot` unless given.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let wrong = FlagError::of("--cpus");
        let mut options = Self::SYNTAX.parse(text).map_err(&wrong)?;
        let boot = options.take::<u32>("boot_vcpus").map_err(&wrong)?.unwrap_or(1).to_string();
        let features = options.take::<Vec<String>>("features").map_err(&wrong)?.unwrap_or_default();
        let options = options.or("boot_vcpus", &boot).or("max_vcpus", &boot);
        let mut cpus: Self = options.read().map_err(&wrong)?;
        for feature in features {
            match feature.as_str() {
                "amx" => cpus.features.amx = true,
                _ => return Err(FlagError::CpuFeature(feature)),
            }
        }
        Ok(cpus)
    }

    /// The numbers of vCPUs.
    pub(crate) fn check_counts(&self, at: &mut Scope<'_, '_>) {
        let (boot, max) = (self.boot_vcpus, self.max_vcpus);
        if max < boot {
            let text = format!("Max CPUs ({max}) lower than boot CPUs ({boot})");
            at.invalid("max_vcpus", text, "raise max or lower boot");
        }
        if max > VCPU_LIMIT {
            let text = format!("Too many CPUs: specified {max} but {VCPU_LIMIT} is the limit");
            at.invalid("max_vcpus", text, "lower the number of vCPUs");
        }
        if boot == 0 {
            at.invalid("boot_vcpus", "Boot CPUs must be at least 1", "set boot=1 or more");
        }
    }

    /// How they are grouped.
    pub(crate) fn check_topology(&self, at: &mut Scope<'_, '_>) {
        let Some(topology) = self.topology else { return };
        let parts = topology.parts();
        if parts.contains(&0) {
            let text = "No part of the CPU topology can be zero";
            at.invalid("topology", text, "write threads:cores:dies:packages, each from 1");
        }
        if topology.threads_per_core > 2 {
            let text = "CPU topology supports at most 2 threads per core";
            at.invalid("topology.threads_per_core", text, "use 1 or 2 threads per core");
        }
        let product: u64 = parts.iter().map(|part| u64::from(*part)).product();
        if product != u64::from(self.max_vcpus) {
            let text = "Product of CPU topology parts does not match maximum vCPU";
            let hint = format!("the product is {product}, max is {}: make them equal", self.max_vcpus);
            at.invalid("topology", text, hint);
        }
    }
}

impl CpuTopology {
    fn parts(self) -> [u16; 4] {
        [self.threads_per_core, self.cores_per_die, self.dies_per_package, self.packages]
    }
}
