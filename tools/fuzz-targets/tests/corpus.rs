//! Every target over its corpus (`fuzz/corpus/`) and a fixed number of mutations of it, always the same ones.

#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used)] // tests

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use fuzz_targets::{TARGETS, Target, bodies};

/// What mutations insert: bits of the grammars that bytes alone would take long to hit upon.
const WORDS: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "=",
    "@",
    "-",
    "null",
    "true",
    "18446744073709551615",
    "-1",
    "1e999",
    "0x",
    "\r\n",
    "\r\n\r\n",
    "HTTP/1.1",
    "Content-Length: ",
    "Transfer-Encoding: chunked",
    "PUT /api/v1/",
    "\u{0}",
    "\u{1f980}",
];

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// xorshift64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end.max(1)).unwrap()).unwrap()
    }
}

/// One of `seeds` with a few changes.
fn mutate(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut data = seeds[dice.below(seeds.len())].clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(data.len() + 1);
        let end = (at + dice.below(16)).min(data.len());
        match dice.below(6) {
            0 => data.splice(at..at, WORDS[dice.below(WORDS.len())].bytes()).for_each(drop),
            1 => data.drain(at..end).for_each(drop),
            2 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece).for_each(drop);
            }
            3 => {
                let other = &seeds[dice.below(seeds.len())];
                let from = dice.below(other.len() + 1);
                let to = (from + dice.below(64)).min(other.len());
                data.splice(at..end, other[from..to].iter().copied()).for_each(drop);
            }
            4 if at < data.len() => data[at] ^= 1 << dice.below(8),
            _ => data.splice(at..end, [u8::try_from(dice.below(256)).unwrap()]).for_each(drop),
        }
    }
    data
}

/// Shows the input of a run that panics, so that it can be made part of the corpus.
struct Shown<'a>(&'a str, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{} fails with {}", self.0, self.1.escape_ascii());
        }
    }
}

/// `FUZZ_FACTOR` times as many mutations as the target names: `cargo xtask test` asks for some minutes of them.
fn check(target: &Target) {
    let factor = std::env::var("FUZZ_FACTOR").map_or(1, |factor| factor.parse().unwrap());
    let seeds = corpus(target.name);
    assert!(!seeds.is_empty(), "{} has no corpus", target.name);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mutated = (0..target.mutations * factor).map(|_| mutate(&seeds, &mut dice));
    for data in seeds.iter().cloned().chain(mutated) {
        let _shown = Shown(target.name, &data);
        (target.run)(&data);
    }
}

#[test]
fn every_target_over_its_corpus() {
    // One target alone, while it is being written.
    let only = std::env::var("FUZZ_TARGET").ok();
    let wanted = |target: &&Target| only.as_ref().is_none_or(|name| name == target.name);
    let queue = Mutex::new(TARGETS.iter().filter(wanted));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            // A panic in one of them is the test's.
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some(target) = next else { break };
                    check(target);
                }
            });
        }
    });
}

#[test]
fn every_target_has_a_corpus() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let corpora: BTreeSet<String> = entries.map(|name| name.to_str().unwrap().to_owned()).collect();
    assert_eq!(corpora, TARGETS.iter().map(|target| target.name.to_owned()).collect());
}

/// A verb's body that no fuzzer makes would be easy to forget.
#[test]
fn every_body_of_the_document_is_made() {
    let document: serde_json::Value =
        serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
    let schema = |operation: &serde_json::Value| {
        let target = operation.pointer("/requestBody/content/application~1json/schema/$ref")?.as_str()?;
        Some(target.rsplit('/').next()?.to_owned())
    };
    let described: BTreeSet<String> = operations.filter_map(schema).collect();
    assert_eq!(described, bodies().map(str::to_owned).collect());
}
