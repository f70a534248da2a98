//! The log: one line per event, as `spec/cli.md` §1 "Logging" has it, to standard error or a file. Any thread writes to it, and none waits
//! for its reader: lines that find no room are lost, counted, and told of by the next line that does. Lines that a guest causes at will
//! ([`guest`]) come as often as people can read them.
//!
//! Its level can be changed while the program runs (SIGUSR1 for more, SIGUSR2 for less); lines below the level cost one load.

mod guest;
mod line;
mod template;

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Instant, SystemTime};

use host::outlet::Outlet;
use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::written::Unwritable;

use guest::GuestLines;
use line::{Line, Message};
pub(crate) use template::DEFAULT as DEFAULT_FORMAT;
use template::{Template, TemplateError};

/// Levels by verbosity; each step shows more.
const LEVELS: [LevelFilter; 4] =
    [LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE];

/// An index into [`LEVELS`].
static VERBOSITY: AtomicU8 = AtomicU8::new(0);

/// Why there is no log.
#[derive(Debug, Error)]
pub(crate) enum LogError {
    /// The file cannot be created.
    #[error("Error creating log file")]
    File(#[source] Unwritable),
    /// There is no descriptor left.
    #[error("Error writing the log to standard error")]
    StandardError(#[source] io::Error),
    /// The template makes no sense.
    #[error("Error parsing logger format")]
    Format(#[from] TemplateError),
}

/// Writes events; spans are not used in this program.
struct Logger {
    start: Instant,
    format: Format,
    guest: GuestLines,
    output: Mutex<Output>,
}

struct Output {
    outlet: Outlet,
    /// Lines that have found no room since the last one that did.
    lost: u64,
}

enum Format {
    Text(Template),
    Json,
}

/// Starts logging to `file`, or to standard error: `verbosity` 0 shows warnings, 1 information, 2 debugging, 3 everything. `format` is
/// `json` or a template.
///
/// # Errors
/// [`LogError`].
pub(crate) fn install(file: Option<&Path>, format: Option<&str>, verbosity: u8) -> Result<(), LogError> {
    host::calendar::read_time_zone();
    let format = match format {
        Some("json") => Format::Json,
        Some(template) => Format::Text(template.parse()?),
        None => Format::Text(DEFAULT_FORMAT.parse()?),
    };
    let outlet = match file {
        Some(path) => {
            let failed = |source| LogError::File(Unwritable::path(path)(source));
            let outlet = Outlet::create(path).map_err(failed)?;
            sandbox::report_violations_to(outlet.duplicate().map_err(failed)?);
            outlet
        }
        None => Outlet::shared(io::stderr().as_fd()).map_err(LogError::StandardError)?,
    };
    VERBOSITY.store(verbosity.min(LEVELS.len() as u8 - 1), Relaxed);
    let output = Mutex::new(Output { outlet, lost: 0 });
    let logger = Logger { start: Instant::now(), format, guest: GuestLines::default(), output };
    // Called once, so no subscriber is there yet.
    let _ = tracing::subscriber::set_global_default(logger);
    Ok(())
}

/// Shows more, or less, from now on.
pub(crate) fn adjust(more: bool) {
    let step = |old: u8| if more { (old + 1).min(LEVELS.len() as u8 - 1) } else { old.saturating_sub(1) };
    // The update cannot fail: the step is always there.
    let _ = VERBOSITY.fetch_update(Relaxed, Relaxed, |old| Some(step(old)));
    tracing::callsite::rebuild_interest_cache();
    tracing::warn!("The log shows {} and worse from now on", level());
}

fn level() -> LevelFilter {
    LEVELS.get(usize::from(VERBOSITY.load(Relaxed))).copied().unwrap_or(LevelFilter::TRACE)
}

impl Logger {
    fn render(&self, level: Level, (file, line): (&str, u32), message: String) -> String {
        let thread = thread::current();
        let line = Line {
            boot_time: self.start.elapsed(),
            time: SystemTime::now(),
            thread: thread.name().unwrap_or("anonymous"),
            level,
            file,
            line,
            message,
        };
        match &self.format {
            Format::Text(template) => template.render(&line) + "\r\n",
            Format::Json => line.to_json() + "\n",
        }
    }

    fn write(&self, text: &str) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if output.lost > 0 {
            let why = format!("{} lines of the log were lost: nobody read it", output.lost);
            let note = self.render(Level::WARN, (file!(), line!()), why);
            if output.outlet.put(note.as_bytes()) {
                output.lost = 0;
            }
        }
        if output.lost > 0 || !output.outlet.put(text.as_bytes()) {
            output.lost = output.lost.saturating_add(1);
        }
    }
}

impl Subscriber for Logger {
    /// Asked once for each place in the program, and again after [`adjust`].
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= level()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(level())
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        for (place, count) in self.guest.left_out(Instant::now()) {
            let why = format!("{count} more lines like that from here were left out: there were too many");
            self.write(&self.render(*place.level(), location(place), why));
        }
        if !self.guest.admit(metadata, Instant::now()) {
            return;
        }
        let mut message = Message::default();
        event.record(&mut message);
        self.write(&self.render(*metadata.level(), location(metadata), message.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn location(place: &'static Metadata<'static>) -> (&'static str, u32) {
    (place.file().unwrap_or("unknown"), place.line().unwrap_or(0))
}
