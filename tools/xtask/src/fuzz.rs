//! `cargo xtask fuzz`: libFuzzer on the targets of `tools/fuzz-targets`.

use crate::error::{AtPath, Error, Result};
use crate::places::Places;
use crate::step::{headline, loud, step};
use crate::tool::Tool;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CARGO_FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2", options: &[] };
/// One input that takes longer is a finding, as are those that need more memory or crash.
const SECONDS_PER_INPUT: u32 = 30;

/// What to fuzz.
#[derive(Debug)]
pub(crate) struct Options {
    /// One target; all without.
    pub(crate) target: Option<String>,
    /// How long, each.
    pub(crate) minutes: u32,
}

/// What a run of libFuzzer told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    runs: u64,
    coverage: u64,
}

/// Fuzzes one target after the other and prints a line for each.
///
/// # Errors
/// There is no such target, it does not build, or there are findings.
pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    let targets = targets(places, options.target.as_deref())?;
    let dir = places.target.join("fuzz");
    let program = build(places, &dir)?;
    let mut findings = 0;
    for target in &targets {
        headline(&format!("{target}, {} minutes", options.minutes));
        findings += fuzz(places, &program, &dir.join(target), target, options.minutes)?;
    }
    if findings == 0 { Ok(()) } else { Err(Error::Verdict(format!("{findings} findings"))) }
}

/// The names of the targets: a test holds the corpora's directories to them.
fn targets(places: &Places, only: Option<&str>) -> Result<Vec<String>> {
    let dir = places.root.join("fuzz/corpus");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).at(&dir)? {
        names.push(entry.at(&dir)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    match only {
        None => Ok(names),
        Some(name) if names.iter().any(|known| known == name) => Ok(vec![name.to_owned()]),
        Some(name) => Err(Error::Usage(format!("no target {name}; there are {}", names.join(", ")))),
    }
}

/// The one program with all targets.
fn build(places: &Places, dir: &Path) -> Result<PathBuf> {
    let cargo_fuzz = CARGO_FUZZ.find(places)?;
    let output = dir.join("build");
    step("building the fuzzer", || {
        // libFuzzer's instrumentation is a nightly compiler's.
        let mut build = Command::new("rustup");
        build.args(["run", "nightly"]).arg(cargo_fuzz).args(["build", "--sanitizer", "none", "--target-dir"]);
        build.arg(&output).arg("any").current_dir(&places.root);
        // Those of the compiler that runs this task.
        for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR"] {
            build.env_remove(variable);
        }
        loud(&mut build)
    })?;
    Ok(output.join(format!("{}-unknown-linux-gnu/release/any", std::env::consts::ARCH)))
}

/// Returns how many findings there are. What the fuzzer learnt stays in `dir/corpus` for the next run.
fn fuzz(places: &Places, program: &Path, dir: &Path, target: &str, minutes: u32) -> Result<usize> {
    let (corpus, findings) = (dir.join("corpus"), dir.join("findings"));
    let _ = fs::remove_dir_all(&findings);
    for dir in [&corpus, &findings] {
        fs::create_dir_all(dir).at(dir)?;
    }
    let log_path = dir.join("log");
    let log = fs::File::create(&log_path).at(&log_path)?;
    let mut run = Command::new(program);
    run.arg(&corpus).arg(places.root.join("fuzz/corpus").join(target)).env("FUZZ_TARGET", target);
    run.arg(format!("-max_total_time={}", minutes * 60)).arg("-print_final_stats=1");
    run.arg(format!("-timeout={SECONDS_PER_INPUT}")).arg(format!("-artifact_prefix={}/", findings.display()));
    run.stdin(Stdio::null()).stdout(log.try_clone().at(&log_path)?).stderr(log);
    let status = run.status().at(program)?;
    let Told { runs, coverage } = read_log(&String::from_utf8_lossy(&fs::read(&log_path).at(&log_path)?));
    let found = fs::read_dir(&findings).at(&findings)?.count();
    println!("{target}: {runs} runs, coverage {coverage}, {found} findings");
    if found > 0 {
        println!("  in {}; mend, then add them to fuzz/corpus/{target}", findings.display());
    } else if !status.success() || runs == 0 {
        return Err(Error::Verdict(format!("the fuzzer failed: see {}", log_path.display())));
    }
    Ok(found)
}

fn read_log(log: &str) -> Told {
    let number = |text: &str| text.split_whitespace().next()?.parse().ok();
    // What a finding ends has no sum: the last line that counts then says how far it came.
    let counted = log.lines().rev().find_map(|line| number(line.strip_prefix('#')?));
    let sum = log.lines().find_map(|line| number(line.strip_prefix("stat::number_of_executed_units:")?));
    let coverage = log.lines().rev().find_map(|line| number(line.split_once(" cov: ")?.1));
    Told { runs: sum.or(counted).unwrap_or(0), coverage: coverage.unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
INFO: Running with entropic power schedule (0xFF, 100).
#2\tINITED cov: 800 ft: 900 corp: 1/1b exec/s: 0 rss: 30Mb
#1024\tNEW    cov: 912 ft: 1100 corp: 20/1Kb lim: 4 exec/s: 0 rss: 31Mb L: 4/4 MS: 1 CopyPart-
";

    #[test]
    fn sums_of_a_whole_run() {
        let log =
            format!("{LOG}#5000\tDONE   cov: 950 ft: 1 corp: 2/3b\nstat::number_of_executed_units: 5001\n");
        assert_eq!(read_log(&log), Told { runs: 5001, coverage: 950 });
    }

    #[test]
    fn what_a_finding_ends_counts_so_far() {
        let log = format!("{LOG}thread panicked\n==12== ERROR: libFuzzer: deadly signal\n");
        assert_eq!(read_log(&log), Told { runs: 1024, coverage: 912 });
        assert_eq!(read_log(""), Told::default());
    }
}
