//! schemathesis makes requests of `docs/openapi.json`, well-formed and not, and compares the replies with it.
//!
//! It runs outside the lab. The VMM does not, where it boots guests, and is slow there: so most cases are made where no guest boots.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use vmtest::bridge::Bridge;
use vmtest::context::Context;
use vmtest::foreign::tool;
use vmtest::host;
use vmtest::outside::{Heard, Program, SOCKET};
use vmtest::process::Vmm;
use vmtest::wait;

vmtest::tests![fuzzing: booted_states; without guests: thousands_of_requests, events, shutdown_of_the_vmm];

/// One run of schemathesis.
struct Run<'a> {
    context: &'a Context,
    bridge: Bridge,
    program: Program,
}

impl<'a> Run<'a> {
    /// `cases` are made for each operation, besides those that follow from the document alone.
    fn new(context: &'a Context, cases: u32) -> Self {
        let bridge = Bridge::open();
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let scripts = tool("VMTEST_PYTHON_SCRIPTS");
        let mut program = Program::new(&tool("VMTEST_PYTHON").join("bin/schemathesis"));
        program.arg("--no-color").arg("--config-file").arg(text(scripts.join("schemathesis.toml")));
        program.arg("run").arg(text(tool("VMTEST_OPENAPI"))).env("PYTHONPATH", text(scripts));
        program.arg(format!("--url=http://127.0.0.1:{}/api/v1", bridge.port()));
        program.arg(format!("--max-examples={cases}"));
        Self { context, bridge, program }
    }

    /// Brings the VM to each state in turn for each operation; with `kernel`, also to those of a booted one.
    fn in_all_states(&mut self, kernel: Option<&Path>) {
        self.program.env("SCHEMATHESIS_HOOKS", "states").env("VMTEST_SOCKET", SOCKET);
        if let Some(kernel) = kernel {
            self.program.env("VMTEST_KERNEL", kernel.to_string_lossy());
        }
        // A reply without an end, and the end of the VMM: they have tests of their own.
        self.program.arg("--exclude-path=/events").arg("--exclude-path=/vmm.shutdown");
    }

    /// Serves every client through `serve` until the run ends; returns how many cases there were.
    ///
    /// # Panics
    /// A reply is not as the document says, or there was none for a long time.
    fn finish(self, mut serve: impl FnMut(&Bridge, TcpStream)) -> u32 {
        let mut running = self.program.start(self.context, self.bridge.port());
        let mut report = String::new();
        let progress = || self.bridge.carried();
        let code = wait::until_or_idle(wait::PROGRESS, "schemathesis to go on", progress, || {
            while let Some(client) = self.bridge.next() {
                serve(&self.bridge, client);
            }
            loop {
                match running.try_hear()? {
                    Heard::Line(line) => report += &format!("{line}\n"),
                    Heard::Exit(code) => return Some(code),
                }
            }
        });
        assert_eq!(code, Some(0), "{report}");
        let line =
            report.lines().find(|line| line.contains(" generated, ")).unwrap_or_else(|| panic!("{report}"));
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

fn fuzz(context: &Context, cases: u32, phases: &str, kernel: Option<&Path>) -> u32 {
    let mut vmm = Vmm::start(context, &[]);
    let mut run = Run::new(context, cases);
    run.in_all_states(kernel);
    run.program.arg(format!("--phases={phases}"));
    let count = run.finish(|bridge, client| bridge.carry(client, vmm.socket()));
    assert!(vmm.is_running() && vmm.api.answers());
    count
}

fn thousands_of_requests(context: &Context) {
    let count = fuzz(context, 100, "examples,coverage,fuzzing", None);
    assert!(count > 5000, "only {count} cases");
}

fn booted_states(context: &Context) {
    let kernel = context.path("kernel");
    host::make_idle_kernel(&kernel);
    let count = fuzz(context, 20, "fuzzing", Some(&kernel));
    assert!(count > 300, "only {count} cases");
}

/// A stream ends with its VMM, which is told to end as soon as the reply has begun.
fn events(context: &Context) {
    let mut run = Run::new(context, 50);
    run.program.arg("--include-path=/events").arg("--header=Connection:close");
    // It compares single events with the schema, as OpenAPI 3.2 has it; in 3.0, ours, the schema is that of the whole text.
    run.program.arg("--exclude-checks=response_schema_conformance");
    let mut vmm = None;
    let count = run.finish(|bridge, client| {
        let fresh = Vmm::start(context, &[]);
        let api = fresh.api.clone();
        bridge.carry_and(client, fresh.socket(), move || drop(api.request("PUT", "vmm.shutdown", None)));
        vmm = Some(fresh);
    });
    assert!(count > 5, "only {count} cases");
}

/// Each request has a VMM of its own, because the last one may have ended it.
fn shutdown_of_the_vmm(context: &Context) {
    let mut run = Run::new(context, 50);
    run.program.arg("--include-path=/vmm.shutdown").arg("--header=Connection:close");
    let mut vmm = None;
    let count = run.finish(|bridge, client| {
        let fresh = Vmm::start(context, &[]);
        bridge.carry(client, fresh.socket());
        vmm = Some(fresh);
    });
    assert!(count > 5, "only {count} cases");
}
