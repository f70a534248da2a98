//! The flags (`spec/cli.md` §1): those of the process here, those of the machine in [`crate::flags`].

use std::path::{Path, PathBuf};

use clap::{ArgAction, ArgGroup, Parser};
use config::RestoreConfig;
use sandbox::Mode;

use crate::flags::{Flags, keys};

const EXAMPLES: &str = "\
Examples:
  A whole VM from flags, its console on this terminal:
    cloud-hypervisor --kernel vmlinuz --initramfs initrd --cmdline console=hvc0 \\
      --cpus boot=2 --memory size=1G --disk path=disk.raw,image_type=raw \\
      --net ip=192.168.9.1,mask=255.255.255.0
  The same from a file, with more memory:
    cloud-hypervisor --config vm.yaml --memory size=4G
  Say whether that file is sound, and all it comes to:
    cloud-hypervisor --config vm.yaml --check
  Wait for clients of the REST API, such as ch-remote:
    cloud-hypervisor --api-socket /run/vm.sock

SIGUSR1 shows more in the log of a running VMM, SIGUSR2 less. The REST API is described in docs/openapi.json.";

/// Run a virtual machine.
#[derive(Debug, Parser)]
#[command(
    name = "cloud-hypervisor",
    disable_version_flag = true,
    arg_required_else_help = true,
    after_help = EXAMPLES,
    group = ArgGroup::new("vm-payload").multiple(true),
    group = ArgGroup::new("vm-config").multiple(true).requires("vm-payload"),
)]
pub(crate) struct Cli {
    /// The whole VM in a JSON, TOML or YAML file, with the field names of the REST API; flags override its sections
    #[arg(long, group = "vm-payload", help_heading = "Payload", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    vm: Flags,

    /// Socket of the REST API: a path, path=PATH, or fd=N for a descriptor that listens already
    #[arg(long, value_name = "SOCKET", help_heading = "VMM")]
    pub(crate) api_socket: Option<String>,
    /// Name of the D-Bus API, such as org.example.Vm1
    #[cfg(feature = "dbus_api")]
    #[arg(long, value_name = "NAME", help_heading = "VMM")]
    pub(crate) dbus_service_name: Option<String>,
    /// Object path of the D-Bus API, such as /org/example/Vm1
    #[cfg(feature = "dbus_api")]
    #[arg(long, value_name = "PATH", help_heading = "VMM")]
    pub(crate) dbus_object_path: Option<String>,
    /// Offer the D-Bus API on the system bus instead of the session bus
    #[cfg(feature = "dbus_api")]
    #[arg(long, help_heading = "VMM")]
    pub(crate) dbus_system_bus: bool,
    /// Where event records go: path=PATH or fd=N
    #[arg(long, value_name = "FILE", help_heading = "VMM")]
    pub(crate) event_monitor: Option<String>,
    /// Restore a VM from a snapshot, unless there is a payload
    #[arg(long, value_name = "KEYS", long_help = keys("Restore a VM from a snapshot, unless there is a payload", RestoreConfig::SYNTAX), help_heading = "VMM")]
    pub(crate) restore: Option<String>,
    /// Wait for gdb to attach at a socket before the guest runs: path=PATH; in gdb, 'target remote PATH'
    #[arg(long, value_name = "SOCKET", help_heading = "VMM")]
    pub(crate) gdb: Option<String>,
    /// Stay after the guest has powered off
    #[arg(long, help_heading = "VMM")]
    pub(crate) no_shutdown: bool,
    /// What a system call leads to that the VMM has no use for
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Seccomp::True, help_heading = "VMM")]
    pub(crate) seccomp: Seccomp,
    /// Print the whole configuration that the flags and the file come to, or everything that is wrong with it, and exit
    #[arg(long, requires = "vm-payload", help_heading = "VMM")]
    pub(crate) check: bool,
    /// Write the log to a file instead of standard error
    #[arg(long, value_name = "PATH", help_heading = "Logging")]
    pub(crate) log_file: Option<PathBuf>,
    /// What lines of the log look like: 'json', or a text with tokens
    #[arg(long, value_name = "TEMPLATE", help_heading = "Logging", long_help = log_format_help())]
    pub(crate) log_format: Option<String>,
    /// Log more: -v information, -vv debugging, -vvv everything
    #[arg(short = 'v', action = ArgAction::Count, help_heading = "Logging")]
    pub(crate) verbosity: u8,
    /// Print the version; with -v the features too
    #[arg(short = 'V', long)]
    pub(crate) version: bool,
}

/// Values of `--seccomp`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Seccomp {
    /// The process names the call and dies
    True,
    /// There are no filters
    False,
    /// The kernel logs the call
    Log,
    /// The call fails
    Errno,
}

impl From<Seccomp> for Mode {
    fn from(flag: Seccomp) -> Self {
        match flag {
            Seccomp::True => Self::Trap,
            Seccomp::False => Self::Off,
            Seccomp::Log => Self::Log,
            Seccomp::Errno => Self::Errno,
        }
    }
}

fn log_format_help() -> String {
    format!(
        "What lines of the log look like: 'json', or a text with tokens such as {{boottime}}, {{wallclock}}, {{glog}}, {{pid}}, {{tid}}, \
         {{thread}}, {{level}}, {{location}} and {{msg}} [default: {}]",
        crate::log::DEFAULT_FORMAT
    )
}

impl Cli {
    /// Whether there is something to boot: then the VM is created and booted at once.
    pub(crate) fn has_payload(&self) -> bool {
        self.vm.kernel.is_some() || self.vm.firmware.is_some() || self.config.is_some()
    }

    /// The file that describes the VM.
    pub(crate) fn config_file(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The flags that describe the VM, or override what the file says.
    pub(crate) fn into_flags(self) -> Flags {
        self.vm
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap_complete::Shell;

    const DIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dist");

    /// Compares a generated file with the one checked in; `UPDATE_DOCS=1` writes it.
    fn check_in(name: &str, text: &[u8]) {
        let path = Path::new(DIST).join(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        }
        let known = std::fs::read(&path).unwrap_or_default();
        assert!(
            known == text,
            "dist/{name} is out of date: run 'UPDATE_DOCS=1 cargo test -p cloud-hypervisor'"
        );
    }

    #[test]
    #[cfg_attr(feature = "dbus_api", ignore = "dist/ describes the default build")]
    fn the_manual_page_is_up_to_date() {
        let mut page = Vec::new();
        let command = Cli::command().version(env!("CARGO_PKG_VERSION"));
        clap_mangen::Man::new(command).render(&mut page).unwrap();
        check_in("man/cloud-hypervisor.1", &page);
    }

    #[test]
    #[cfg_attr(feature = "dbus_api", ignore = "dist/ describes the default build")]
    fn completions_are_up_to_date() {
        for (shell, name) in [
            (Shell::Bash, "cloud-hypervisor.bash"),
            (Shell::Zsh, "_cloud-hypervisor"),
            (Shell::Fish, "cloud-hypervisor.fish"),
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "cloud-hypervisor", &mut script);
            check_in(&format!("completions/{name}"), &script);
        }
    }

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_vm_needs_a_payload_and_defaults_do_not_count() {
        assert!(Cli::try_parse_from(["x", "--cpus", "boot=2"]).is_err());
        assert!(Cli::try_parse_from(["x"]).is_err());
        assert!(!Cli::try_parse_from(["x", "--api-socket", "/s"]).unwrap().has_payload());
        let cli =
            Cli::try_parse_from(["x", "--kernel", "/k", "--disk", "path=/a", "path=/b", "--disk", "path=/c"]);
        let flags = cli.unwrap().into_flags();
        assert_eq!(flags.disk, ["path=/a", "path=/b", "path=/c"]);
    }
}
