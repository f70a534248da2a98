//! schemathesis makes requests of `docs/openapi.json`, well-formed and not, and compares the replies with it.
//!
//! It is slow where the CPU is emulated, so most cases are made on the host, where no guest boots; the lab adds the booted states.

use std::path::Path;
use std::process::{Child, Command};
use vmtest::bridge::{Bridge, carry, carry_and};
use vmtest::context::Context;
use vmtest::foreign::tool;
use vmtest::host;
use vmtest::process::Vmm;
use vmtest::wait;

vmtest::tests![fuzzing: booted_states; without guests: thousands_of_requests, events, shutdown_of_the_vmm];

/// One run of schemathesis.
struct Run<'a> {
    context: &'a Context,
    bridge: Bridge,
    command: Command,
}

impl<'a> Run<'a> {
    /// `cases` are made for each operation, besides those that follow from the document alone.
    fn new(context: &'a Context, cases: u32) -> Self {
        let bridge = Bridge::open();
        let scripts = tool("VMTEST_PYTHON_SCRIPTS");
        let mut command = Command::new(tool("VMTEST_PYTHON").join("bin/schemathesis"));
        command.arg("--no-color").arg("--config-file").arg(scripts.join("schemathesis.toml"));
        command.arg("run").arg(tool("VMTEST_OPENAPI")).env("PYTHONPATH", scripts);
        command.arg(format!("--url=http://{}/api/v1", bridge.address()));
        command.arg(format!("--max-examples={cases}")).current_dir(&context.dir);
        Self { context, bridge, command }
    }

    /// Brings the VM to each state in turn for each operation; with `kernel`, also to those of a booted one.
    fn in_all_states(&mut self, socket: &Path, kernel: Option<&Path>) {
        self.command.env("SCHEMATHESIS_HOOKS", "states").env("VMTEST_SOCKET", socket);
        self.command.envs(kernel.map(|kernel| ("VMTEST_KERNEL", kernel)));
        // A reply without an end, and the end of the VMM: they have tests of their own.
        self.command.args(["--exclude-path=/events", "--exclude-path=/vmm.shutdown"]);
    }

    /// Serves every client through `serve` until the run ends; returns how many cases there were.
    ///
    /// # Panics
    /// A reply is not as the document says.
    fn finish(mut self, mut serve: impl FnMut(std::net::TcpStream)) -> u32 {
        let path = self.context.path("schemathesis");
        let output = std::fs::File::create(&path).unwrap();
        self.command.stdout(output.try_clone().unwrap()).stderr(output);
        let mut child: Child = self.command.spawn().unwrap();
        let status = wait::until(wait::FUZZING, "schemathesis to end", || {
            while let Some(client) = self.bridge.next() {
                serve(client);
            }
            child.try_wait().unwrap()
        });
        let report = std::fs::read_to_string(path).unwrap();
        assert!(status.success(), "{report}");
        let line =
            report.lines().find(|line| line.contains(" generated, ")).unwrap_or_else(|| panic!("{report}"));
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

fn fuzz(context: &Context, cases: u32, phases: &str, kernel: Option<&Path>) -> u32 {
    let mut vmm = Vmm::start(context, &[]);
    let mut run = Run::new(context, cases);
    run.in_all_states(vmm.socket(), kernel);
    run.command.arg(format!("--phases={phases}"));
    let count = run.finish(|client| carry(client, vmm.socket()));
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
    let count = fuzz(context, 8, "fuzzing", Some(&kernel));
    assert!(count > 150, "only {count} cases");
}

/// A stream ends with its VMM, which is told to end as soon as the reply has begun.
fn events(context: &Context) {
    let mut run = Run::new(context, 50);
    run.command.args(["--include-path=/events", "--header=Connection:close"]);
    // It compares single events with the schema, as OpenAPI 3.2 has it; in 3.0, ours, the schema is that of the whole text.
    run.command.arg("--exclude-checks=response_schema_conformance");
    let mut vmm = None;
    let count = run.finish(|client| {
        let fresh = Vmm::start(context, &[]);
        let api = fresh.api.clone();
        carry_and(client, fresh.socket(), move || drop(api.request("PUT", "vmm.shutdown", None)));
        vmm = Some(fresh);
    });
    assert!(count > 5, "only {count} cases");
}

/// Each request has a VMM of its own, because the last one may have ended it.
fn shutdown_of_the_vmm(context: &Context) {
    let mut run = Run::new(context, 50);
    run.command.args(["--include-path=/vmm.shutdown", "--header=Connection:close"]);
    let mut vmm = None;
    let count = run.finish(|client| {
        let fresh = Vmm::start(context, &[]);
        carry(client, fresh.socket());
        vmm = Some(fresh);
    });
    assert!(count > 5, "only {count} cases");
}
