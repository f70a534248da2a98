//! The project's tasks: `cargo xtask check|test|soak|fuzz|demo|bench|selfcheck|lab`.

#![allow(clippy::print_stdout)] // a command-line tool: its output is its purpose

mod bench;
mod bzimage;
mod check;
mod clients;
mod cpio;
mod demo;
mod error;
mod fuzz;
mod guest;
mod initramfs;
mod kernel;
mod lab;
mod packages;
mod places;
mod soak;
mod step;
mod terminal;
mod test;
mod tool;

use error::{Error, Result};
use places::Places;
use std::error::Error as _;
use std::process::ExitCode;

/// What `cargo xtask` answers when it does not understand.
const USAGE: &str = "\
usage: cargo xtask TASK
  check                               every lint
  test [--unit | --guest] [FILTER]    unit tests, then guest tests; ends with `N passed, N failed`
  soak [--rounds N] [FILTER]          guest tests N times (10); a table of passes, and the failures' logs
  fuzz [TARGET] [--minutes N]         libFuzzer on one target or all, N minutes each (10)
  demo [--shell]                      shows a whole VM; --shell leaves you at the guest's prompt
  bench [--host | --guest | --hotplug | --state] [--rounds N] [--json] [--against REV]
                                      this VMM beside QEMU; a whole run writes docs/performance.md;
                                      --against: beside another commit, and fails if anything got worse
  selfcheck                           is the lab sound? boots the guest images there without our VMM
  lab [--memory MIB] [--cpus N] [-t] -- COMMAND...
                                      runs a command on a machine with a true /dev/kvm;
                                      -t gives it this terminal";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("error: {e}");
            let mut source = e.source();
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<u8> {
    let (task, rest) = arguments.split_first().ok_or_else(|| Error::Usage("no task".to_owned()))?;
    let places = Places::find()?;
    match task.as_str() {
        "check" => check::run(&places).map(|()| 0),
        "test" => test::run(&places, &parse_test(rest)?).map(|()| 0),
        "soak" => soak::run(&places, &parse_soak(rest)?).map(|()| 0),
        "fuzz" => fuzz::run(&places, &parse_fuzz(rest)?).map(|()| 0),
        "demo" => demo::run(&places, parse_demo(rest)?),
        "bench" => bench::run(&places, &parse_bench(rest)?).map(|()| 0),
        "selfcheck" => selfcheck(&places),
        "lab" => lab::run(&places, &parse_lab(rest)?, std::io::stdout()),
        other => Err(Error::Usage(format!("no task {other}"))),
    }
}

fn parse_test(arguments: &[String]) -> Result<test::Options> {
    let mut options = test::Options { unit: true, guest: true, filter: String::new() };
    for argument in arguments {
        match argument.as_str() {
            "--unit" => options.guest = false,
            "--guest" => options.unit = false,
            option if option.starts_with('-') => return Err(Error::Usage(format!("no option {option}"))),
            filter => filter.clone_into(&mut options.filter),
        }
    }
    Ok(options)
}

fn parse_soak(arguments: &[String]) -> Result<soak::Options> {
    let mut options = soak::Options { rounds: 10, filter: String::new() };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => options.rounds = parse_number(&mut arguments)?,
            option if option.starts_with('-') => return Err(Error::Usage(format!("no option {option}"))),
            filter => filter.clone_into(&mut options.filter),
        }
    }
    Ok(options)
}

fn parse_fuzz(arguments: &[String]) -> Result<fuzz::Options> {
    let mut options = fuzz::Options { target: None, minutes: 10 };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--minutes" => options.minutes = parse_number(&mut arguments)?,
            option if option.starts_with('-') => return Err(Error::Usage(format!("no option {option}"))),
            target => options.target = Some(target.to_owned()),
        }
    }
    Ok(options)
}

/// A number above 0 behind an option.
fn parse_number<'a>(arguments: &mut impl Iterator<Item = &'a String>) -> Result<u32> {
    let number = arguments.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    number.ok_or_else(|| Error::Usage("a number is missing".to_owned()))
}

fn parse_demo(arguments: &[String]) -> Result<bool> {
    match arguments {
        [] => Ok(false),
        [option] if option == "--shell" => Ok(true),
        _ => Err(Error::Usage("demo takes --shell or nothing".to_owned())),
    }
}

fn parse_bench(arguments: &[String]) -> Result<bench::Options> {
    let mut options = bench::Options { part: bench::Part::Whole, rounds: 7, json: false, against: None };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--host" => options.part = bench::Part::Host,
            "--guest" => options.part = bench::Part::Guest,
            "--hotplug" => options.part = bench::Part::Hotplug,
            "--state" => options.part = bench::Part::State,
            "--json" => options.json = true,
            "--rounds" => options.rounds = parse_number(&mut arguments)?,
            "--against" => {
                let revision =
                    arguments.next().ok_or_else(|| Error::Usage("a commit is missing".to_owned()))?;
                options.against = Some(revision.clone());
            }
            other => return Err(Error::Usage(format!("no option {other}"))),
        }
    }
    Ok(options)
}

fn selfcheck(places: &Places) -> Result<u8> {
    let images = guest::prepare(places, false)?;
    step::loud(step::cargo().args(["build", "--quiet", "-p", "vmtest"]).current_dir(&places.root))?;
    let command = vec![places.dev_binary("vmtest").to_string_lossy().into_owned(), "selfcheck".to_owned()];
    let run = lab::Run { environment: test::environment(places, &images), ..lab::Run::new(command) };
    lab::run(places, &run, std::io::stdout())
}

fn parse_lab(arguments: &[String]) -> Result<lab::Run> {
    let usage = |text: &str| Error::Usage(text.to_owned());
    let split =
        arguments.iter().position(|a| a == "--").ok_or_else(|| usage("no `--` before the command"))?;
    let command = arguments[split + 1..].to_vec();
    if command.is_empty() {
        return Err(usage("no command"));
    }
    let mut run = lab::Run::new(command);
    let mut options = arguments[..split].iter();
    while let Some(option) = options.next() {
        let mut number =
            || options.next().and_then(|n| n.parse().ok()).ok_or_else(|| usage("a number is missing"));
        match option.as_str() {
            "--memory" => run.memory_mib = number()?,
            "--cpus" => run.cpus = number()?,
            "-t" => run.terminal = true,
            other => return Err(usage(&format!("no option {other}"))),
        }
    }
    Ok(run)
}
