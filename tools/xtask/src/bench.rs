//! `cargo xtask bench`: this VMM beside Debian's QEMU. What needs no guest is measured on the host, the rest in the lab
//! if the host's KVM cannot run a stock kernel. A whole run writes `docs/performance.md`.

mod against;
mod document;
mod images;

use crate::error::{AtPath, Error, Result};
use crate::lab;
use crate::places::Places;
use crate::step::{cargo, headline, loud, step};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use vmbench::comparison;
use vmbench::results::Contestant::{Before, CloudHypervisor};
use vmbench::results::{Contestant, Quantity, Results};
use vmbench::table;

/// A part of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of them.
    Whole,
    /// What needs no guest.
    Host,
    /// What needs one.
    Guest,
    /// Of that only what comes to a running guest.
    Hotplug,
    /// Of that only snapshots, restores and migrations.
    State,
}

/// What to measure.
#[derive(Debug)]
pub(crate) struct Options {
    /// How much of it.
    pub(crate) part: Part,
    /// How often each contestant is measured; what takes long half as often.
    pub(crate) rounds: u32,
    /// Print the samples instead of the table.
    pub(crate) json: bool,
    /// Measure this commit beside, instead of QEMU.
    pub(crate) against: Option<String>,
}

/// Measures and prints the table.
///
/// # Errors
/// Something cannot be fetched, built or measured.
pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    headline("preparing the images");
    let images = images::prepare(places)?;
    headline("building the VMM as it ships");
    let before = options.against.as_deref().map(|revision| against::build(places, revision)).transpose()?;
    let contest = Contest { places, images, before, rounds: options.rounds };
    for package in ["cloud-hypervisor", "vmbench"] {
        step(&format!("building {package}"), || {
            loud(cargo().args(["build", "--quiet", "--release", "-p", package]).current_dir(&places.root))
        })?;
    }
    let mut results = Results::default();
    if matches!(options.part, Part::Whole | Part::Host) {
        headline("measuring on the host");
        results.merge(contest.on_host("host")?);
    }
    if options.part != Part::Host {
        headline("measuring with guests");
        let name = match options.part {
            Part::Hotplug => "hotplug",
            Part::State => "state",
            _ => "guest",
        };
        let measured = if lab::host_kvm() {
            contest.on_host(name)?
        } else {
            eprintln!("    this host's /dev/kvm cannot run a stock kernel: this part runs in the lab");
            contest.in_lab(name)?
        };
        results.merge(measured);
    }
    if let Some(before) = &contest.before {
        add_size(&mut results, Before, before)?;
        add_size(&mut results, CloudHypervisor, &places.release_binary("cloud-hypervisor"))?;
        return show_changes(&results, options.json);
    }
    if options.part == Part::Whole {
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

fn add_size(results: &mut Results, who: Contestant, program: &Path) -> Result<()> {
    let size = fs::metadata(program).at(program)?.len();
    results.push(Quantity::Program, who, size as f64 / f64::from(1 << 20));
    Ok(())
}

/// Shows what changed since the other commit.
fn show_changes(results: &Results, json: bool) -> Result<()> {
    let changes = comparison::changes(results);
    if json {
        println!("{}", serde_json::json!(results));
    } else {
        print!("{}", comparison::render(&changes));
    }
    match changes.iter().filter(|change| change.is_worse()).count() {
        0 => Ok(()),
        count => Err(Error::Verdict(format!("{count} quantities got worse by more than noise"))),
    }
}

/// What is measured, and how often.
struct Contest<'a> {
    places: &'a Places,
    images: PathBuf,
    /// The other commit's program.
    before: Option<PathBuf>,
    rounds: u32,
}

impl Contest<'_> {
    fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut environment = vec![
            ("VMBENCH_IMAGES".to_owned(), text(&self.images)),
            ("VMBENCH_VMM".to_owned(), text(&self.places.release_binary("cloud-hypervisor"))),
        ];
        environment.extend(self.before.as_deref().map(|before| ("VMBENCH_BEFORE".to_owned(), text(before))));
        environment
    }

    fn on_host(&self, part: &str) -> Result<Results> {
        let program = self.places.release_binary("vmbench");
        let mut command = Command::new(&program);
        command.args([part, &self.rounds.to_string()]).envs(self.environment());
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().at(&program)?;
        if !output.status.success() {
            return Err(Error::Verdict("the measurement failed".to_owned()));
        }
        parse(&program, &output.stdout)
    }

    fn in_lab(&self, part: &str) -> Result<Results> {
        let program = self.places.release_binary("vmbench");
        let rounds = self.rounds.to_string();
        let command = vec![program.to_string_lossy().into_owned(), part.to_owned(), rounds];
        // Room for two guests of 2 GiB and a snapshot in the page cache, and for sixteen QEMUs.
        let run = lab::Run { environment: self.environment(), ..lab::Run::new(command) };
        let output = Keep::default();
        if lab::run(self.places, &run, output.clone())? != 0 {
            return Err(Error::Verdict("the measurement failed".to_owned()));
        }
        let bytes = output.0.lock().unwrap_or_else(|e| e.into_inner()).clone();
        parse(&program, &bytes)
    }
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

fn parse(program: &Path, output: &[u8]) -> Result<Results> {
    serde_json::from_slice(output)
        .map_err(|e| Error::Content { path: program.to_owned(), what: format!("no samples: {e}") })
}
