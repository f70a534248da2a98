//! `payload`: what the machine boots (`spec/config.md` §4).

use std::path::PathBuf;
use std::str::FromStr;

use keyval::Syntax;
use serde::{Deserialize, Serialize};

use crate::check::Scope;
use crate::flag::{self, FlagError};
use crate::plan;
use crate::words::UnknownWord;

/// Kernel or firmware, and what goes with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct PayloadConfig {
    /// Firmware image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<PathBuf>,
    /// Kernel image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Kernel command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Initial RAM disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<PathBuf>,
    /// What fw_cfg offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fw_cfg_config: Option<FwCfgConfig>,
}

/// The files of the fw_cfg device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct FwCfgConfig {
    /// The memory map.
    pub e820: bool,
    /// The kernel.
    pub kernel: bool,
    /// The kernel command line.
    pub cmdline: bool,
    /// The initial RAM disk.
    pub initramfs: bool,
    /// The ACPI tables.
    pub acpi_tables: bool,
    /// Files of the user.
    #[serde(deserialize_with = "keyval::spelled_opt", skip_serializing_if = "Option::is_none")]
    pub items: Option<FwCfgItemList>,
}

/// Files of the user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FwCfgItemList {
    /// The files.
    #[serde(default)]
    pub item_list: Vec<FwCfgItem>,
}

/// A file of the user: exactly one of `file` and `string`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FwCfgItem {
    /// Name in the directory.
    #[serde(default)]
    pub name: String,
    /// Contents from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Contents as they stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub string: Option<String>,
}

impl Default for FwCfgConfig {
    fn default() -> Self {
        Self { e820: true, kernel: true, cmdline: true, initramfs: true, acpi_tables: true, items: None }
    }
}

impl FromStr for FwCfgItemList {
    type Err = UnknownWord;
    /// `[name=n,file=p:name=n2,string=s]`
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let items = inner.split(':').map(keyval::from_str).collect::<Result<_, _>>();
        items.map(|item_list| Self { item_list }).map_err(|error| UnknownWord(error.to_string()))
    }
}

impl FwCfgConfig {
    /// Options of `--fw-cfg-config`.
    pub const SYNTAX: Syntax = Syntax::new(
        "e820=on|off,kernel=on|off,cmdline=on|off,initramfs=on|off,acpi_table=on|off,\
         items=<list of name and file or string>",
    )
    .renamed(&[("acpi_table", "acpi_tables")]);

    /// Reads `--fw-cfg-config`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        flag::read("--fw-cfg-config", &Self::SYNTAX, text)
    }
}

/// The longest command line, with the NUL that closes it.
const CMDLINE_LIMIT: usize = 64 << 10;

/// What the boot protocols cannot hand over.
pub(crate) fn check_cmdline(payload: &PayloadConfig, at: &mut Scope<'_, '_>) {
    let cmdline = payload.cmdline.as_deref().filter(|_| payload.kernel.is_some()).unwrap_or_default();
    if cmdline.len() >= CMDLINE_LIMIT {
        let text = format!("Kernel command line of {} bytes is too long", cmdline.len());
        at.invalid("cmdline", text, format!("use at most {} bytes", CMDLINE_LIMIT - 1));
    }
    if let Some(place) = cmdline.bytes().position(|byte| byte == 0) {
        let text = format!("Kernel command line contains a NUL character at byte {place}");
        at.invalid("cmdline", text, "remove it");
    }
}

/// The rules of the payload; what is bootable comes out.
pub(crate) fn check(payload: Option<&PayloadConfig>, at: &mut Scope<'_, '_>) -> Option<plan::Payload> {
    at.outer = Some("Payload configuration is not bootable");
    let config = payload.cloned().unwrap_or_default();
    if let Some(fw_cfg) = &config.fw_cfg_config {
        fw_cfg.check(&config, at);
    }
    match (config.firmware, config.kernel) {
        (None, None) => {
            let text = "No bootitem provided: neither firmware nor kernel";
            at.invalid("", text, "set payload.kernel or payload.firmware");
            None
        }
        (Some(_), Some(_)) => {
            let text = "Specifying a kernel is not supported when a firmware is provided";
            at.invalid("kernel", text, "leave out one of the two");
            None
        }
        (Some(firmware), None) => Some(plan::Payload::Firmware { firmware }),
        (None, Some(kernel)) => {
            let (cmdline, initramfs) = (config.cmdline, config.initramfs);
            Some(plan::Payload::Kernel { kernel, cmdline, initramfs })
        }
    }
}

impl FwCfgConfig {
    fn check(&self, payload: &PayloadConfig, at: &mut Scope<'_, '_>) {
        let wanted = [
            ("kernel", self.kernel, payload.kernel.is_some()),
            ("cmdline", self.cmdline, payload.cmdline.is_some()),
            ("initramfs", self.initramfs, payload.initramfs.is_some()),
        ];
        for (name, on, given) in wanted {
            if on && !given {
                let text = format!("Error --fw-cfg-config: missing --{name}");
                at.invalid(
                    &format!("fw_cfg_config.{name}"),
                    text,
                    format!("give --{name} or set {name}=off"),
                );
            }
        }
        for item in self.items.iter().flat_map(|items| &items.item_list) {
            if item.file.is_some() == item.string.is_some() {
                let name = &item.name;
                let rule = "exactly one of 'file' or 'string' is required";
                let text = format!("Error --fw-cfg-config: invalid item '{name}' ({rule})");
                at.invalid("fw_cfg_config.items", text, "give the item one of the two");
            }
        }
    }
}
