//! `cargo xtask bench`: this VMM beside Debian's QEMU. What needs no guest is measured on the host, the rest in the lab
//! if the host's KVM cannot run a stock kernel. A whole run writes `docs/performance.md`.

mod document;
mod images;

use crate::error::{AtPath, Error, Result};
use crate::lab;
use crate::places::Places;
use crate::step::{cargo, headline, loud, step};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use vmbench::results::Results;
use vmbench::table;

/// What to measure.
#[derive(Debug)]
pub(crate) struct Options {
    /// What needs no guest.
    pub(crate) host: bool,
    /// What needs one.
    pub(crate) guest: bool,
    /// How often each contestant is measured; what takes long half as often.
    pub(crate) rounds: u32,
    /// Print the samples instead of the table.
    pub(crate) json: bool,
}

/// Measures and prints the table.
///
/// # Errors
/// Something cannot be fetched, built or measured.
pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    headline("preparing the images");
    let images = images::prepare(places)?;
    headline("building the VMM as it ships");
    for package in ["cloud-hypervisor", "vmbench"] {
        step(&format!("building {package}"), || {
            loud(cargo().args(["build", "--quiet", "--release", "-p", package]).current_dir(&places.root))
        })?;
    }
    let mut results = Results::default();
    if options.host {
        headline("measuring on the host");
        results.merge(on_host(places, &images, "host", options.rounds)?);
    }
    if options.guest {
        headline("measuring with guests");
        let measured = if lab::host_kvm() {
            on_host(places, &images, "guest", options.rounds)?
        } else {
            eprintln!("    this host's /dev/kvm cannot run a stock kernel: this part runs in the lab");
            in_lab(places, &images, options.rounds)?
        };
        results.merge(measured);
    }
    if options.host && options.guest {
        let path = places.root.join("docs/performance.md");
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).at(dir)?;
        }
        fs::write(&path, document::write(places, &results, options.rounds)?).at(&path)?;
        eprintln!("    written: {}", path.display());
    }
    if options.json {
        println!("{}", serde_json::json!(results));
    } else {
        print!("{}", table::render(&results));
    }
    Ok(())
}

fn environment(places: &Places, images: &Path) -> Vec<(String, String)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    vec![
        ("VMBENCH_IMAGES".to_owned(), text(images)),
        ("VMBENCH_VMM".to_owned(), text(&places.release_binary("cloud-hypervisor"))),
    ]
}

fn on_host(places: &Places, images: &Path, part: &str, rounds: u32) -> Result<Results> {
    let program = places.release_binary("vmbench");
    let mut command = Command::new(&program);
    command.args([part, &rounds.to_string()]).envs(environment(places, images));
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().at(&program)?;
    if !output.status.success() {
        return Err(Error::Verdict("the measurement failed".to_owned()));
    }
    parse(&program, &output.stdout)
}

/// Keeps what is written to it. Clones share what they keep.
#[derive(Debug, Clone, Default)]
struct Keep(Arc<Mutex<Vec<u8>>>);

impl Write for Keep {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn in_lab(places: &Places, images: &Path, rounds: u32) -> Result<Results> {
    let program = places.release_binary("vmbench");
    let command = vec![program.to_string_lossy().into_owned(), "guest".to_owned(), rounds.to_string()];
    // Room for the page cache of all disks beside the guest.
    let run =
        lab::Run { environment: environment(places, images), memory_mib: 4096, ..lab::Run::new(command) };
    let output = Keep::default();
    if lab::run(places, &run, output.clone())? != 0 {
        return Err(Error::Verdict("the measurement failed".to_owned()));
    }
    let bytes = output.0.lock().unwrap_or_else(|e| e.into_inner()).clone();
    parse(&program, &bytes)
}

fn parse(program: &Path, output: &[u8]) -> Result<Results> {
    serde_json::from_slice(output)
        .map_err(|e| Error::Content { path: program.to_owned(), what: format!("no samples: {e}") })
}
