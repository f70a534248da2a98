//! The `cloud-hypervisor` program: parses flags, opens the doors and runs the control loop on the main thread (`spec/cli.md` §1).

mod check;
mod cli;
mod doors;
mod endpoint;
mod file;
mod flags;
mod log;
mod written;

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use api::{ApiError, Client, EventLog, VmmPing};
use clap::Parser;
use config::{RestoreConfig, VmConfig};
use control::{Control, Ended, Monitor, Options, Published};
use device::{EventSink, Events, Record};
use host::outlet::Outlet;
use host::signals::Signals;
use hv::Hypervisor;
use hv_kvm::KvmHypervisor;
use rustix::fs::OFlags;
use rustix::io::Errno;
use sandbox::Policy;
use thiserror::Error as ThisError;

use cli::Cli;
use endpoint::Endpoint;
use written::{Files, Unwritable};

/// What ends the process with code 1.
#[derive(Debug, ThisError)]
enum Fatal {
    #[error(transparent)]
    Door(#[from] doors::DoorError),
    #[error("Error parsing --event-monitor: path or fd required")]
    MonitorSyntax,
    #[error("Error doing event monitor I/O")]
    Monitor(#[source] Unwritable),
    #[error(
        "Error setting up seccomp filters: run on a kernel with CONFIG_SECCOMP_FILTER, or with --seccomp false"
    )]
    Sandbox(#[source] std::io::Error),
    #[error(transparent)]
    Log(#[from] log::LogError),
    #[error(transparent)]
    Clash(#[from] written::Clash),
    #[error("Error parsing config")]
    Flags(#[source] config::FlagError),
    #[error("Error parsing config")]
    File(#[source] file::FileError),
    #[error("Cannot print")]
    Print(#[source] std::io::Error),
    #[error("Error starting the VMM's threads")]
    Threads(#[source] std::io::Error),
    #[error("Error parsing restore")]
    RestoreFlag(#[source] config::FlagError),
    #[error("Error creating VM")]
    Create(#[source] Chain),
    #[error("Error restoring VM")]
    Restore(#[source] Chain),
    #[error("Error booting VM")]
    Boot(#[source] Chain),
    #[error("VMM thread exited with error")]
    Control(#[source] Ended),
}

/// An API error as a chain of errors, as the program prints them.
#[derive(Debug, ThisError)]
#[error("{text}")]
struct Chain {
    text: String,
    source: Option<Box<Chain>>,
}

impl From<&ApiError> for Chain {
    fn from(error: &ApiError) -> Self {
        let link = |source, text: &String| Some(Box::new(Self { text: text.clone(), source }));
        let chain = error.chain().iter().rev().fold(None, link);
        chain.map_or_else(|| Self { text: error.to_string(), source: None }, |chain| *chain)
    }
}

fn main() -> ExitCode {
    host::signals::take_limits_as_errors();
    host::heap::share_one_arena();
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let cli = Cli::parse();
    if cli.version {
        return print_version(cli.verbosity);
    }
    let result = if cli.check { check(cli) } else { run(cli) };
    match result {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("Fatal error: {error:?}");
            print_chain(&error);
            ExitCode::FAILURE
        }
    }
}

fn version() -> String {
    format!("v{}", env!("CARGO_PKG_VERSION"))
}

const FEATURES: &[&str] =
    if cfg!(feature = "dbus_api") { &["dbus_api", "io_uring", "kvm"] } else { &["io_uring", "kvm"] };

fn print_version(verbosity: u8) -> ExitCode {
    let mut text = format!("cloud-hypervisor {}\nMigration Protocol Versions: 0\n", version());
    if verbosity > 0 {
        text.push_str(&format!("Enabled features: {FEATURES:?}\n"));
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The error chain of `spec/cli.md` §1 on standard error.
fn print_chain(error: &dyn Error) {
    let mut chain = vec![error.to_string()];
    let mut source = error.source();
    while let Some(inner) = source {
        chain.push(inner.to_string());
        source = inner.source();
    }
    let text = match chain.as_slice() {
        [only] => format!("Error: Cloud Hypervisor exited with the following error:\n  {only}\n"),
        _ => {
            let lines: String =
                chain.iter().enumerate().map(|(i, text)| format!("  {i}: {text}\n")).collect();
            format!("Error: Cloud Hypervisor exited with the following chain of errors:\n{lines}")
        }
    };
    // Nobody is left to be told that standard error is gone, or not read.
    let _ = Outlet::shared(std::io::stderr().as_fd()).map(|mut stderr| stderr.put(text.as_bytes()));
}

fn check(cli: Cli) -> Result<ExitCode, Fatal> {
    let (config, unknown_fields) = configuration(cli)?;
    check::run(config, &unknown_fields).map_err(Fatal::Print)
}

/// What the file and the flags say of the VM, unchecked, and the fields nobody knows.
fn configuration(cli: Cli) -> Result<(VmConfig, Vec<String>), Fatal> {
    let (base, unknown_fields) =
        cli.config_file().map(file::read).transpose().map_err(Fatal::File)?.unwrap_or_default();
    let config = cli.into_flags().over(base).map_err(Fatal::Flags)?;
    Ok((config, unknown_fields))
}

fn run(cli: Cli) -> Result<ExitCode, Fatal> {
    let doors = doors::Wanted::read(&cli)?;
    let (log_file, log_format, verbosity) = (cli.log_file.clone(), cli.log_format.clone(), cli.verbosity);
    let (boots, event_monitor) = (cli.has_payload(), cli.event_monitor.clone());
    let options = Options { no_shutdown: cli.no_shutdown, adjust_log: log::adjust };
    let (seccomp, restore) = (cli.seccomp.into(), cli.restore.clone());
    let config_file = cli.config_file().map(Path::to_owned);
    let config = boots.then(|| configuration(cli)).transpose();
    let files = Files {
        log: log_file.as_deref(),
        events: event_monitor.as_deref(),
        config_file: config_file.as_deref(),
        config: config.as_ref().ok().and_then(Option::as_ref).map(|(config, _)| config),
    };
    files.check()?;
    log::install(log_file.as_deref(), log_format.as_deref(), verbosity)?;
    // After the log is there to say what is wrong with it.
    let config = config?;
    let log = EventLog::new();
    let restore = restore.as_deref().map(RestoreConfig::from_flag).transpose().map_err(Fatal::RestoreFlag)?;
    // Before signals wait to be read: a FIFO may have no reader for ever.
    let file = open_monitor(event_monitor.as_deref())?;
    // Before the first thread, so that all inherit the blocked signals.
    let signals = Signals::take().map_err(Fatal::Threads)?;
    // Before the first thread, too: it says whether threads keep their access to files.
    let files = config.as_ref().is_some_and(|(config, _)| config.landlock_enable);
    sandbox::start(Policy { seccomp, files }).map_err(Fatal::Sandbox)?;
    let monitor = Monitor::new(file, log.clone()).map_err(Fatal::Threads)?;
    let doors = doors.prepare()?;
    tracing::info!("cloud-hypervisor {} starting", version());
    monitor.record(Record { source: "vmm", event: "starting", properties: Vec::new() });
    let events = Events::new(Arc::new(monitor)).map_err(Fatal::Threads)?;
    let (client, mut control) = control(events.clone(), log, options).map_err(Fatal::Threads)?;
    let doors = doors.open(&client, events)?;
    if let Some(desk) = doors.debug_desk() {
        control.debug_through(desk);
    }
    // Doors hold clones as long as they are open.
    drop(client);
    if let Err(error) = start(&mut control, config, restore) {
        drop(control);
        doors.abandon();
        return Err(error);
    }
    control.run(&signals).map_err(Fatal::Control)?;
    doors.close()?;
    tracing::info!("Cloud Hypervisor exited successfully");
    Ok(ExitCode::SUCCESS)
}

/// Enters the sandbox, and starts the VM that the flags describe, if they do.
fn start(
    control: &mut Control,
    config: Option<(VmConfig, Vec<String>)>,
    restore: Option<RestoreConfig>,
) -> Result<(), Fatal> {
    control::enter_filter().map_err(Fatal::Sandbox)?;
    if let Some((config, unknown_fields)) = config {
        for field in unknown_fields {
            tracing::warn!("Unknown field in the configuration file: {field}");
        }
        control.create_given(config).map_err(|e| Fatal::Create(Chain::from(&e)))?;
        control.boot_given().map_err(|e| Fatal::Boot(Chain::from(&e)))?;
    } else if let Some(restore) = restore {
        control.restore_given(&restore).map_err(|e| Fatal::Restore(Chain::from(&e)))?;
    }
    Ok(())
}

fn open_monitor(flag: Option<&str>) -> Result<Option<Outlet>, Fatal> {
    let Some(text) = flag else { return Ok(None) };
    let outlet = match Endpoint::parse_strict(text).ok_or(Fatal::MonitorSyntax)? {
        Endpoint::Path(path) => {
            // A FIFO's open waits for its reader.
            let file = File::create(&path);
            file.and_then(|file| Outlet::shared(file.as_fd())).map_err(Unwritable::path(&path))
        }
        Endpoint::Fd(number) => {
            let file = host::inherit::take(number).and_then(writable);
            file.and_then(|file| Outlet::shared(file.as_fd())).map_err(Unwritable::descriptor(number))
        }
    };
    outlet.map(Some).map_err(Fatal::Monitor)
}

/// A descriptor for reading would lose every record without a word.
fn writable(file: OwnedFd) -> std::io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&file)?;
    let reads_only = flags & OFlags::RWMODE == OFlags::RDONLY || flags.contains(OFlags::PATH);
    if reads_only { Err(Errno::BADF.into()) } else { Ok(file) }
}

fn control(events: Events, log: Arc<EventLog>, options: Options) -> std::io::Result<(Client, Control)> {
    let ping = VmmPing {
        build_version: version(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id().into(),
        features: FEATURES.iter().copied().map(String::from).collect(),
    };
    let published = Published::new(ping, log);
    let (client, inbox) = api::channel(published.clone())?;
    let open = || KvmHypervisor::open().map(|kvm| Arc::new(kvm) as Arc<dyn Hypervisor>);
    Ok((client, Control::new(inbox, events, published, Box::new(open), options)))
}
