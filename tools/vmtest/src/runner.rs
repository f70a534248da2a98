//! Runs registered tests, each in a process of its own: a panic, a hang or a leftover VMM harms no other test.

use crate::context::Context;
use crate::wait;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

/// A registered test.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// `file::name`.
    pub name: &'static str,
    /// The test.
    pub run: fn(&Context),
    /// Whether it boots guests. The others run where no kernel can, and where the CPU is a real one.
    pub boots: bool,
}

/// Makes the list of a file's tests: `tests![boot: pvh, bzimage]`, or with those that boot nothing: `tests![a: b, c; without guests: d]`.
#[macro_export]
macro_rules! tests {
    ($module:ident: $($name:ident),* $(,)? $(; without guests: $($other:ident),* $(,)?)?) => {
        /// The tests of this file.
        pub const TESTS: &[$crate::runner::Test] = &[
            $($crate::tests!(@ $module $name true),)*
            $($($crate::tests!(@ $module $other false),)*)?
        ];
    };
    (@ $module:ident $name:ident $boots:literal) => {
        $crate::runner::Test {
            name: concat!(stringify!($module), "::", stringify!($name)),
            run: $name,
            boots: $boots,
        }
    };
}

/// Runs one test in this process. Returns whether it passed.
///
/// # Panics
/// There is no such test.
pub fn run_one(tests: &[Test], name: &str, dir: &Path) -> bool {
    let index = tests.iter().position(|test| test.name == name).unwrap_or_else(|| panic!("no test {name}"));
    // 1 and up: these are part of addresses.
    let context = Context::new(dir.to_owned(), u8::try_from(index + 1).unwrap());
    let passed = catch_unwind(AssertUnwindSafe(|| (tests[index].run)(&context))).is_ok();
    if !passed {
        println!("{}", context.report());
    }
    passed
}

/// Which tests to run, and how.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Only tests whose name contains this.
    pub filter: String,
    /// Only tests that boot guests, or only the others.
    pub boots: Option<bool>,
    /// How many at a time.
    pub jobs: usize,
    /// Every `parts`th of them only, beginning with the `part`th (from 0): several machines can share the work.
    pub part: usize,
    /// See `part`; at least 1.
    pub parts: usize,
}

/// Runs the selected tests and prints a line for each and the sum. Returns whether all passed.
///
/// # Panics
/// The directory for the tests cannot be made.
pub fn run_all(tests: &[Test], selection: &Selection) -> bool {
    let matching = tests.iter().filter(|test| {
        test.name.contains(&selection.filter) && selection.boots.is_none_or(|boots| boots == test.boots)
    });
    let selected: VecDeque<Test> = matching.skip(selection.part).step_by(selection.parts).copied().collect();
    let total = selected.len();
    let base = std::env::temp_dir().join(format!("vmtest-{}", std::process::id()));
    fs::create_dir_all(&base).unwrap();
    let queue = Mutex::new(selected);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..selection.jobs {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().pop_front();
                    let Some(test) = next else { break };
                    if !supervise(test, &base) {
                        failures.lock().unwrap().push(test.name);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    if failures.is_empty() {
        let _ = fs::remove_dir_all(&base);
    } else {
        println!("failed: {}", failures.join(" "));
    }
    println!("{} passed, {} failed", total - failures.len(), failures.len());
    failures.is_empty()
}

/// Runs a test in a child process and shows how it went.
fn supervise(test: Test, base: &Path) -> bool {
    let dir = base.join(test.name.replace("::", "-"));
    fs::create_dir_all(&dir).unwrap();
    let output_path = dir.join("output");
    let begin = Instant::now();
    let child = spawn(test, &dir, &output_path);
    let (passed, why) = attend(child);
    let seconds = begin.elapsed().as_secs_f64();
    if passed {
        println!("ok      {} ({seconds:.1} s)", test.name);
        // Disks are large.
        let _ = fs::remove_dir_all(&dir);
        return true;
    }
    let output = fs::read(&output_path).unwrap_or_default();
    // In one piece, so that the other job's lines do not get in between.
    let text = String::from_utf8_lossy(&output);
    println!(
        "FAILED  {} ({seconds:.1} s){why}\n{}\n======== end of {}",
        test.name,
        text.trim_end(),
        test.name
    );
    false
}

fn spawn(test: Test, dir: &Path, output: &PathBuf) -> Child {
    let output = File::create(output).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["one", test.name]).arg(dir).stdin(Stdio::null());
    command.stdout(output.try_clone().unwrap()).stderr(output);
    // A group of its own, so that nothing it started outlives it.
    command.process_group(0).spawn().unwrap()
}

fn attend(mut child: Child) -> (bool, &'static str) {
    let group = Pid::from_child(&child);
    let finished = catch_unwind(AssertUnwindSafe(|| {
        wait::until(wait::TEST, "the test to end", || child.try_wait().unwrap())
    }));
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
    match finished {
        Ok(status) => (status.success(), ""),
        Err(_) => (false, " did not end"),
    }
}
