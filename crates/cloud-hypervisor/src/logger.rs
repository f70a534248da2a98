//! The log: one line per event, as `spec/cli.md` §1 "Logging" has it, to standard error or a file.

use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes events; spans are not used in this program.
struct Logger {
    start: Instant,
    level: LevelFilter,
    output: Mutex<Box<dyn Write + Send>>,
}

/// Starts logging: `verbosity` 0 shows warnings, 1 information, 2 debugging, 3 everything.
///
/// # Errors
/// The kernel's, if the file cannot be created.
pub(crate) fn install(file: Option<&Path>, verbosity: u8) -> io::Result<()> {
    let level = match verbosity {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let output: Box<dyn Write + Send> = match file {
        Some(path) => {
            let file = File::create(path)?;
            sandbox::report_violations_to(file.try_clone()?.into());
            Box::new(file)
        }
        None => Box::new(io::stderr()),
    };
    // Called once, so no subscriber is there yet.
    let _ = tracing::subscriber::set_global_default(Logger {
        start: Instant::now(),
        level,
        output: Mutex::new(output),
    });
    Ok(())
}

/// Collects an event's message.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = if field.name() == "message" {
            write!(self.0, "{value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        let (metadata, thread) = (event.metadata(), thread::current());
        let line = format!(
            "cloud-hypervisor: {:>12.6}s: <{}> {}:{}:{} -- {}\r\n",
            self.start.elapsed().as_secs_f64(),
            thread.name().unwrap_or("anonymous"),
            metadata.level(),
            metadata.file().unwrap_or("unknown"),
            metadata.line().unwrap_or(0),
            message.0,
        );
        // A log that cannot be written has nowhere to complain.
        let _ = self.output.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
