//! `cargo xtask soak`: the guest tests again and again, to meet what fails only now and then.

use crate::error::{AtPath, Error, Result};
use crate::places::Places;
use crate::step::headline;
use crate::test;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What to repeat.
#[derive(Debug)]
pub(crate) struct Options {
    /// How often.
    pub(crate) rounds: u32,
    /// Only tests whose name contains this.
    pub(crate) filter: String,
}

/// How often a test passed, of how many times.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Passes {
    passed: u32,
    of: u32,
}

/// How a test ended in one round.
#[derive(Debug, PartialEq, Eq)]
struct Ended<'a> {
    name: &'a str,
    /// What it wrote, if it failed.
    log: Option<String>,
}

/// Runs the guest tests and ends with a table; the logs of failures are kept in `target/soak`.
///
/// # Errors
/// Something cannot be built, or a test failed in some round.
pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    let dir = places.target.join("soak");
    let _ = fs::remove_dir_all(&dir);
    let mut table = BTreeMap::new();
    let mut failed = 0;
    for round in 1..=options.rounds {
        headline(&format!("round {round} of {}", options.rounds));
        match test::run_guest(places, &options.filter, true) {
            Ok(run) => {
                failed += run.count.failed;
                for test in endings(&run.lines) {
                    note(&mut table, &test, round, &dir)?;
                }
            }
            // A lab that died is a failure of this round, not the end of all.
            Err(e) => {
                failed += 1;
                keep(&dir.join(format!("round-{round}-lab")), &format!("{e}\n"))?;
            }
        }
    }
    print!("{}", render(&table));
    if failed == 0 {
        return Ok(());
    }
    Err(Error::Verdict(format!("{failed} failures in {} rounds: see {}", options.rounds, dir.display())))
}

fn note(table: &mut BTreeMap<String, Passes>, test: &Ended<'_>, round: u32, dir: &Path) -> Result<()> {
    let passes = table.entry(test.name.to_owned()).or_default();
    passes.of += 1;
    match &test.log {
        None => passes.passed += 1,
        Some(log) => keep(&dir.join(format!("round-{round}-{}", test.name.replace("::", "-"))), log)?,
    }
    Ok(())
}

fn keep(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).at(dir)?;
    }
    fs::write(path, text).at(path)
}

/// Reads what `tools/vmtest/src/runner.rs` writes about each test.
fn endings(lines: &[String]) -> Vec<Ended<'_>> {
    let mut endings = Vec::new();
    let mut lines = lines.iter();
    while let Some(line) = lines.next() {
        let name =
            |rest: &'static str| line.strip_prefix(rest)?.split_once(" (").map(|(name, _)| name.trim());
        if let Some(name) = name("ok  ") {
            endings.push(Ended { name, log: None });
        } else if let Some(name) = name("FAILED  ") {
            let end = format!("======== end of {name}");
            let mut log = format!("{line}\n");
            for line in lines.by_ref().take_while(|line| **line != end) {
                log += &format!("{line}\n");
            }
            endings.push(Ended { name, log: Some(log) });
        }
    }
    endings
}

/// A line for each test; those that failed stand out.
fn render(table: &BTreeMap<String, Passes>) -> String {
    let width = table.keys().map(String::len).max().unwrap_or(0);
    let line = |(name, passes): (&String, &Passes)| {
        let mark = if passes.passed == passes.of { "" } else { "  FAILED" };
        format!("{name:width$}  {} of {}{mark}\n", passes.passed, passes.of)
    };
    table.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_and_table() {
        let text = "ok      boot::pvh (3.1 s)\nFAILED  net::mac (2.0 s) did not end\nok  not a test\nwhy\n\
                    ======== end of net::mac\nok      net::mtu (1.0 s)\n2 passed, 1 failed";
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let ended = endings(&lines);
        assert_eq!(
            ended.iter().map(|test| test.name).collect::<Vec<_>>(),
            ["boot::pvh", "net::mac", "net::mtu"]
        );
        assert_eq!(ended[0].log, None);
        assert!(ended[1].log.as_ref().unwrap().ends_with("did not end\nok  not a test\nwhy\n"));
    }

    #[test]
    fn failures_stand_out() {
        let passes = |passed| Passes { passed, of: 3 };
        let table = BTreeMap::from([("a".to_owned(), passes(3)), ("bc".to_owned(), passes(2))]);
        assert_eq!(render(&table), "a   3 of 3\nbc  2 of 3  FAILED\n");
    }
}
