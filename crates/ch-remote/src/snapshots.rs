//! `snapshot inspect` and `snapshot flatten`: they read a snapshot's files themselves, and need no VMM.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use signal_hook::consts::SIGINT;
use snapshot::{Error, Inspection, Summary};

use crate::output::{Format, columns, size};

/// The text of `snapshot inspect`.
///
/// # Errors
/// The snapshot cannot be used.
pub(crate) fn inspect(dir: &Path, format: Format) -> Result<Vec<u8>, Error> {
    let found = snapshot::inspect(dir)?;
    Ok(match format {
        Format::Json => format!("{}\n", serde_json::to_value(&found).unwrap_or(Value::Null)).into_bytes(),
        Format::Table => table(&found).into_bytes(),
    })
}

fn table(found: &Inspection) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let heads = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let mut table = columns(&[
        row("Snapshot", found.path.display().to_string()),
        row("Id", found.id.clone()),
        row("Format", found.format.to_string()),
        row("Memory", size(found.memory_bytes)),
        row("Configuration", size(found.config_bytes)),
        row("State", size(found.state_bytes)),
    ]);
    let ranges = found.ranges.iter().map(|range| vec![format!("{:#x}", range.base), size(range.len)]);
    let chain = found.chain.iter().map(|link| {
        let kind = if link.full { "full" } else { "incremental" };
        let (own, disk) = (size(link.own_bytes), size(link.disk_bytes));
        vec![link.path.display().to_string(), kind.to_owned(), own, disk, link.id.clone()]
    });
    let devices = found.devices.iter();
    let devices =
        devices.map(|device| vec![device.id.clone(), device.kind.clone(), device.version.to_string()]);
    let parts: [(&[&str], Vec<_>); 3] = [
        (&["MEMORY AT", "SIZE"], ranges.collect()),
        (&["CHAIN", "KIND", "OWN PAGES", "ON DISK", "ID"], chain.collect()),
        (&["DEVICE", "STATE OF", "VERSION"], devices.collect()),
    ];
    for (names, rows) in parts.into_iter().filter(|(_, rows)| !rows.is_empty()) {
        table.push('\n');
        table.push_str(&columns(&std::iter::once(heads(names)).chain(rows).collect::<Vec<_>>()));
    }
    table
}

/// Does `snapshot flatten`; people are told how far it is. Its text says what was made. Ctrl-C ends it, and nothing is left.
///
/// # Errors
/// A snapshot cannot be used, or made.
pub(crate) fn flatten(dir: &Path, out: &Path, format: Format) -> Result<Vec<u8>, Error> {
    let people = io::stderr().is_terminal();
    let interrupted = Arc::new(AtomicBool::new(false));
    // Without it Ctrl-C ends this program, and unfinished files stay until somebody makes another snapshot there.
    let _ = signal_hook::flag::register(SIGINT, interrupted.clone());
    let mut shown = None;
    let summary = snapshot::flatten(dir, out, |done, total| {
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
        if people && shown.replace(percent) != Some(percent) {
            // Nobody misses a number that cannot be shown.
            let _ = write!(io::stderr(), "\r{percent:3} %");
        }
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if people {
        let _ = writeln!(io::stderr());
    }
    Ok(made(&summary?, out, format).into_bytes())
}

fn made(summary: &Summary, out: &Path, format: Format) -> String {
    let Summary { id, stored_bytes, total_bytes } = summary;
    match format {
        Format::Json => {
            let made =
                serde_json::json!({"id": id, "stored_bytes": stored_bytes, "total_bytes": total_bytes});
            format!("{made}\n")
        }
        Format::Table => {
            let (stored, total) = (size(*stored_bytes), size(*total_bytes));
            format!("{} has all of it: {stored} for {total} of memory\n", out.display())
        }
    }
}
