//! The command line as clap sees it: built from [`crate::table`], plus what is not one call of the API.

use std::path::PathBuf;
use std::time::Duration;

use api::{Verb, VmState};
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};
use clap_complete::Shell;

use crate::console::ConsoleDevice;
use crate::output::Format;
use crate::table::{Flag, Input, SUBCOMMANDS, Subcommand, VALUE};

/// Where the VMM listens.
pub(crate) const API_SOCKET: &str = "api-socket";
/// The VMM's name on a bus.
#[cfg(feature = "dbus_api")]
const DBUS_SERVICE_NAME: &str = "dbus-service-name";
/// The VMM's object on a bus.
#[cfg(feature = "dbus_api")]
const DBUS_OBJECT_PATH: &str = "dbus-object-path";
/// Which bus.
#[cfg(feature = "dbus_api")]
const DBUS_SYSTEM_BUS: &str = "dbus-system-bus";
/// How replies are printed.
pub(crate) const OUTPUT: &str = "output";
/// The subcommand that prints a shell's completions.
pub(crate) const COMPLETIONS: &str = "completions";
/// The subcommand that attaches to a console.
pub(crate) const CONSOLE: &str = "console";
/// The subcommand that lists devices.
pub(crate) const DEVICES: &str = "devices";
/// The subcommand that may wait for the guest.
pub(crate) const REMOVE_DEVICE: &str = "remove-device";
const WAIT_FOR_GUEST: &str = "wait";
/// The subcommand that follows events.
pub(crate) const EVENTS: &str = "events";
const ALL: &str = "all";
/// The subcommand that makes snapshots, with those of its own that work on files.
pub(crate) const SNAPSHOT: &str = "snapshot";
const INSPECT: &str = "inspect";
const FLATTEN: &str = "flatten";
const DIRECTORY: &str = "directory";
const OUT: &str = "out";
/// The subcommand that waits for a state.
pub(crate) const WAIT: &str = "wait";

const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// States to wait for, by the word for each.
const STATES: [(&str, VmState); 5] = [
    ("created", VmState::Created),
    ("running", VmState::Running),
    ("paused", VmState::Paused),
    ("shutdown", VmState::Shutdown),
    ("breakpoint", VmState::BreakPoint),
];

/// Where the VMM is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// At a socket.
    Socket(PathBuf),
    /// On a bus.
    #[cfg(feature = "dbus_api")]
    Bus(crate::bus::Address),
}

/// Where the options say that the VMM is.
///
/// # Errors
/// What is missing or too much.
#[cfg(not(feature = "dbus_api"))]
pub(crate) fn endpoint(matches: &ArgMatches) -> Result<Endpoint, (ErrorKind, &'static str)> {
    let socket = matches.get_one::<PathBuf>(API_SOCKET).cloned();
    socket.map(Endpoint::Socket).ok_or((ErrorKind::MissingRequiredArgument, "--api-socket is needed"))
}

/// Where the options say that the VMM is.
///
/// # Errors
/// What is missing or too much.
#[cfg(feature = "dbus_api")]
pub(crate) fn endpoint(matches: &ArgMatches) -> Result<Endpoint, (ErrorKind, &'static str)> {
    let socket = matches.get_one::<PathBuf>(API_SOCKET).cloned();
    let text = |name| matches.get_one::<String>(name).cloned();
    let system_bus = matches.get_flag(DBUS_SYSTEM_BUS);
    match (socket, text(DBUS_SERVICE_NAME), text(DBUS_OBJECT_PATH)) {
        (Some(socket), None, None) if !system_bus => Ok(Endpoint::Socket(socket)),
        (Some(_), ..) => {
            Err((ErrorKind::ArgumentConflict, "--api-socket and the options of D-Bus exclude each other"))
        }
        (None, Some(service_name), Some(object_path)) => {
            Ok(Endpoint::Bus(crate::bus::Address { service_name, object_path, system_bus }))
        }
        (None, ..) => Err((
            ErrorKind::MissingRequiredArgument,
            "--api-socket is needed, or both --dbus-service-name and --dbus-object-path",
        )),
    }
}

#[cfg(not(feature = "dbus_api"))]
fn dbus_options() -> [Arg; 0] {
    []
}

#[cfg(feature = "dbus_api")]
fn dbus_options() -> [Arg; 3] {
    let value = |name, value| Arg::new(name).long(name).global(true).value_name(value);
    [
        value(DBUS_SERVICE_NAME, "NAME").help("Name of the VMM's D-Bus API"),
        value(DBUS_OBJECT_PATH, "PATH").help("Object path of the VMM's D-Bus API"),
        Arg::new(DBUS_SYSTEM_BUS)
            .long(DBUS_SYSTEM_BUS)
            .global(true)
            .action(ArgAction::SetTrue)
            .help("Look on the system bus instead of the session bus"),
    ]
}

/// The whole command line.
pub(crate) fn command() -> Command {
    Command::new("ch-remote")
        .about("Remotely control a cloud-hypervisor VMM.")
        .version(VERSION)
        .subcommand_required(true)
        .arg(
            Arg::new(API_SOCKET)
                .long(API_SOCKET)
                .global(true)
                .value_name("PATH")
                .value_hint(ValueHint::FilePath)
                .help("Socket of the VMM's REST API")
                .value_parser(value_parser!(PathBuf)),
        )
        .args(dbus_options())
        .arg(
            Arg::new(OUTPUT)
                .long(OUTPUT)
                .global(true)
                .value_name("FORMAT")
                .help("How to print replies; on a terminal, info and counters are tables by default")
                .value_parser(value_parser!(Format)),
        )
        .subcommands(SUBCOMMANDS.iter().map(subcommand))
        .mut_subcommand(REMOVE_DEVICE, |command| command.arg(wait_for_guest()))
        .mut_subcommand(SNAPSHOT, with_file_commands)
        .subcommand(completions_command())
        .subcommand(console_command())
        .subcommand(Command::new(DEVICES).about("List the devices in PCI slots"))
        .subcommand(events_command())
        .subcommand(wait_command())
}

/// Ends the process with code 2 and clap's usage.
pub(crate) fn usage_error(kind: ErrorKind, text: &str) -> ! {
    command().error(kind, text).exit()
}

fn subcommand(sub: &'static Subcommand) -> Command {
    let about = Verb::find(sub.verb).map_or("", |verb| verb.summary.trim().trim_end_matches('.'));
    let command = Command::new(sub.name).about(about);
    match &sub.input {
        Input::Nothing => command,
        Input::File => command.arg(
            Arg::new(VALUE)
                .value_name("PATH")
                .default_value("-")
                .value_parser(NonEmptyStringValueParser::new())
                .help("File with the VM's JSON, or - for stdin"),
        ),
        Input::Value(syntax, _) => {
            command.arg(Arg::new(VALUE).value_name("VALUE").required(true).help(*syntax))
        }
        Input::Options(flags, _) => command.args(flags.iter().map(option)),
    }
}

fn option(flag: &'static Flag) -> Arg {
    Arg::new(flag.name).long(flag.name).value_name(flag.value).required(flag.required).help(flag.help)
}

fn wait_for_guest() -> Arg {
    Arg::new(WAIT_FOR_GUEST)
        .long(WAIT_FOR_GUEST)
        .action(ArgAction::SetTrue)
        .help("Return when the guest has let go of the device, or fail when it does not in time")
}

/// The device that `remove-device` is to wait for, if it is to.
pub(crate) fn awaited_device(name: &str, arguments: &ArgMatches) -> Option<String> {
    (name == REMOVE_DEVICE && arguments.get_flag(WAIT_FOR_GUEST))
        .then(|| arguments.get_one::<String>(VALUE).cloned())
        .flatten()
}

/// Adds what is done with the files of a snapshot, in place of making one.
fn with_file_commands(snapshot: Command) -> Command {
    let directory = |name, value, help| {
        let arg = Arg::new(name).value_name(value).required(true).value_parser(value_parser!(PathBuf));
        arg.value_hint(ValueHint::DirPath).help(help)
    };
    let of = || directory(DIRECTORY, "DIRECTORY", "Directory of the snapshot");
    snapshot
        .args_conflicts_with_subcommands(true)
        .subcommand_negates_reqs(true)
        .subcommand(Command::new(INSPECT).about("Check a snapshot's files, and tell what it is").arg(of()))
        .subcommand(
            Command::new(FLATTEN)
                .about("Make a full snapshot of an incremental one, so that its parents need not be kept")
                .arg(of())
                .arg(directory(OUT, "OUT", "Directory for the full snapshot; it must exist")),
        )
}

/// What is to be done with a snapshot's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OnFiles {
    /// Tell what it is.
    Inspect(PathBuf),
    /// Make a full one of the first in the second.
    Flatten(PathBuf, PathBuf),
}

/// What `snapshot` is to do with files, if it is not to make one.
pub(crate) fn on_files(name: &str, arguments: &ArgMatches) -> Option<OnFiles> {
    let (name, arguments) = (name == SNAPSHOT).then(|| arguments.subcommand()).flatten()?;
    let path = |name| arguments.try_get_one::<PathBuf>(name).ok().flatten().cloned();
    let directory = path(DIRECTORY)?;
    match name {
        FLATTEN => Some(OnFiles::Flatten(directory, path(OUT)?)),
        _ => Some(OnFiles::Inspect(directory)),
    }
}

fn completions_command() -> Command {
    let shell = Arg::new("shell").required(true).value_parser(value_parser!(Shell));
    Command::new(COMPLETIONS).about("Print completions for a shell").arg(shell)
}

/// The script for the shell in `arguments`.
pub(crate) fn completions(arguments: &ArgMatches) -> Vec<u8> {
    let mut script = Vec::new();
    if let Some(shell) = arguments.get_one::<Shell>("shell") {
        clap_complete::generate(*shell, &mut command(), "ch-remote", &mut script);
    }
    script
}

fn console_command() -> Command {
    let device = Arg::new("device")
        .long("device")
        .value_parser(value_parser!(ConsoleDevice))
        .help("Which one, if there are several");
    Command::new(CONSOLE)
        .about("Attach to a serial port or console with mode pty or socket; Ctrl-] leaves")
        .arg(device)
}

/// The device `console` was asked for.
pub(crate) fn console_device(arguments: &ArgMatches) -> Option<ConsoleDevice> {
    arguments.get_one("device").copied()
}

fn events_command() -> Command {
    let all = Arg::new(ALL)
        .long(ALL)
        .action(ArgAction::SetTrue)
        .help("Begin with those that the VMM still remembers");
    Command::new(EVENTS).about("Print what happens to the VM, as it happens").arg(all)
}

/// Whether `events` begins with what has been.
pub(crate) fn all_events(arguments: &ArgMatches) -> bool {
    arguments.get_flag(ALL)
}

fn wait_command() -> Command {
    let state = Arg::new("state")
        .long("state")
        .required(true)
        .ignore_case(true)
        .value_parser(PossibleValuesParser::new(STATES.map(|(word, _)| word)))
        .help("State to wait for");
    let timeout = Arg::new("timeout")
        .long("timeout")
        .value_name("SECONDS")
        .default_value("60")
        .value_parser(value_parser!(u32))
        .help("Give up after this time");
    Command::new(WAIT).about("Wait until the VM is in a state").arg(state).arg(timeout)
}

/// State and patience of `wait`.
pub(crate) fn wait_arguments(arguments: &ArgMatches) -> (VmState, Duration) {
    let word = arguments.get_one::<String>("state").map(|word| word.to_ascii_lowercase()).unwrap_or_default();
    let state = STATES.iter().find(|(known, _)| *known == word).map_or(VmState::Running, |(_, state)| *state);
    let timeout_s = arguments.get_one::<u32>("timeout").copied().unwrap_or_default();
    (state, Duration::from_secs(timeout_s.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page, and those of the subcommands that it refers to, compared with the files checked in; `UPDATE_DOCS=1` writes them.
    #[test]
    #[cfg_attr(feature = "dbus_api", ignore = "dist/ describes the default build")]
    fn the_manual_pages_are_up_to_date() {
        let known = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dist/man");
        let dir = tempfile::tempdir().unwrap();
        let update = std::env::var_os("UPDATE_DOCS").is_some();
        // A page puts a "v" of its own in front.
        let command = command().version(env!("CARGO_PKG_VERSION"));
        clap_mangen::generate_to(command, if update { known.as_ref() } else { dir.path() }).unwrap();
        let pages = |dir: &std::path::Path| -> std::collections::BTreeMap<_, _> {
            let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
            let files = files.filter(|file| file.file_name().to_string_lossy().starts_with("ch-remote"));
            files.map(|file| (file.file_name(), std::fs::read(file.path()).unwrap())).collect()
        };
        assert!(
            update || pages(dir.path()) == pages(known.as_ref()),
            "run 'UPDATE_DOCS=1 cargo test -p ch-remote'"
        );
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_and_after_the_subcommand() {
        for arguments in [["x", "--api-socket", "/s", "ping"], ["x", "ping", "--api-socket", "/s"]] {
            let matches = command().try_get_matches_from(arguments).unwrap();
            assert_eq!(matches.get_one::<PathBuf>(API_SOCKET).unwrap().to_str(), Some("/s"));
        }
    }

    fn parsed(arguments: &[&str]) -> Result<Endpoint, ErrorKind> {
        let matches = command().try_get_matches_from([&["x"], arguments].concat()).map_err(|e| e.kind())?;
        endpoint(&matches).map_err(|(kind, _)| kind)
    }

    #[test]
    fn an_endpoint_is_needed() {
        assert_eq!(parsed(&["ping"]), Err(ErrorKind::MissingRequiredArgument));
        assert_eq!(parsed(&["--api-socket", "/s", "ping"]), Ok(Endpoint::Socket("/s".into())));
    }

    #[cfg(feature = "dbus_api")]
    #[test]
    fn the_two_families_exclude_each_other() {
        let (name, path) = (["--dbus-service-name", "a.b"], ["--dbus-object-path", "/a"]);
        let both = [name, path].concat();
        let bus = |system_bus| {
            let (service_name, object_path) = ("a.b".into(), "/a".into());
            Ok(Endpoint::Bus(crate::bus::Address { service_name, object_path, system_bus }))
        };
        assert_eq!(parsed(&[&both[..], &["ping"]].concat()), bus(false));
        assert_eq!(parsed(&[&["info", "--dbus-system-bus"], &both[..]].concat()), bus(true));
        for incomplete in [&name[..], &path, &["--dbus-system-bus"]] {
            assert_eq!(parsed(&[&["ping"], incomplete].concat()), Err(ErrorKind::MissingRequiredArgument));
            let with_socket = [&["ping", "--api-socket", "/s"], incomplete].concat();
            assert_eq!(parsed(&with_socket), Err(ErrorKind::ArgumentConflict));
        }
    }

    #[test]
    fn a_snapshot_is_made_or_its_files_are_looked_at() {
        let parsed = |arguments: &[&str]| {
            let matches = command().try_get_matches_from([&["x", SNAPSHOT], arguments].concat());
            let matches = matches.map_err(|e| e.kind())?;
            let (name, arguments) = matches.subcommand().unwrap();
            let url = arguments.try_get_one::<String>(VALUE).ok().flatten().cloned();
            Ok((url, on_files(name, arguments)))
        };
        assert_eq!(parsed(&["file:///d"]), Ok((Some("file:///d".into()), None)));
        assert_eq!(parsed(&[INSPECT, "d"]), Ok((None, Some(OnFiles::Inspect("d".into())))));
        let flatten = OnFiles::Flatten("d".into(), "o".into());
        assert_eq!(parsed(&[FLATTEN, "d", "o"]), Ok((None, Some(flatten))));
        for incomplete in [&[][..], &[INSPECT], &[FLATTEN, "d"]] {
            assert_eq!(parsed(incomplete), Err(ErrorKind::MissingRequiredArgument), "{incomplete:?}");
        }
        assert!(parsed(&["file:///d", INSPECT, "d"]).is_err());
    }

    #[test]
    fn states_are_read_in_any_case() {
        let matches =
            command().try_get_matches_from(["x", "wait", "--state", "Paused", "--timeout", "3"]).unwrap();
        let (_, arguments) = matches.subcommand().unwrap();
        assert_eq!(wait_arguments(arguments), (VmState::Paused, Duration::from_secs(3)));
        assert!(command().try_get_matches_from(["x", "wait", "--state", "gone"]).is_err());
    }
}
