//! A VM in a test: built over the JSON configuration or over command line flags, with an agent in its guest.

use crate::agent::{Agent, Output};
use crate::config;
use crate::console::Console;
use crate::context::Context;
use crate::events::{self, Event};
use crate::process::Vmm;
use crate::rest::Client;
use crate::wait;
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where the guest's agent listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentOn {
    /// On the serial port, together with the kernel's messages.
    Serial,
    /// On the virtio console; the kernel's messages go to the serial port if there is one.
    Console,
    /// Nowhere.
    Nobody,
}

/// A VM to be. The defaults: the ELF kernel, one CPU, 512 MiB, a serial socket with the agent on it, no virtio console; seccomp filters
/// and Landlock, so that every test finds out what they must let pass.
pub struct Builder<'a> {
    context: &'a Context,
    config: Value,
    flags: Vec<String>,
    cmdline: String,
    agent: AgentOn,
    output: Option<OwnedFd>,
}

/// A VMM with a VM, which may not have been created yet.
pub struct Vm {
    /// The process.
    pub vmm: Vmm,
    /// The configuration as sent.
    pub config: Value,
    /// The serial port, if its mode has another end.
    pub serial: Option<Console>,
    /// The virtio console, if its mode has another end.
    pub console: Option<Console>,
    agent: Option<Agent>,
}

impl<'a> Builder<'a> {
    /// A VM with the defaults.
    pub fn new(context: &'a Context) -> Self {
        let socket = context.path(&format!("serial{}", context.next_number()));
        let config = json!({
            "cpus": {"boot_vcpus": 1, "max_vcpus": 1},
            "memory": {"size": 512u64 << 20},
            "payload": {"kernel": context.image("vmlinux"), "initramfs": context.image("initramfs")},
            "serial": {"mode": "Socket", "socket": socket},
            "console": {"mode": "Off"},
            "landlock_enable": true,
        });
        Self {
            context,
            config,
            flags: Vec::new(),
            cmdline: String::new(),
            agent: AgentOn::Serial,
            output: None,
        }
    }

    /// Boots another image than `vmlinux`.
    pub fn kernel(mut self, image: &str) -> Self {
        self.config["payload"]["kernel"] = json!(self.context.image(image));
        self
    }

    /// Sets the number of vCPUs.
    pub fn cpus(mut self, count: u32) -> Self {
        self.config["cpus"] = json!({"boot_vcpus": count, "max_vcpus": count});
        self
    }

    /// Sets the size of the memory.
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.config["memory"] = json!({"size": mib << 20});
        self
    }

    /// Adds a raw disk.
    pub fn disk(self, path: &Path) -> Self {
        self.disk_with(path, json!({}))
    }

    /// Adds a raw disk with more settings.
    pub fn disk_with(self, path: &Path, more: Value) -> Self {
        self.append("disks", raw_disk(path, more))
    }

    /// Adds a network device on the test's own tap, with more settings.
    pub fn net_with(self, more: Value) -> Self {
        let (host, _) = self.context.addresses();
        let mut net = json!({"tap": self.context.tap(), "ip": host, "mask": "255.255.255.0"});
        merge(&mut net, more);
        self.append("net", net)
    }

    /// Lets the confined VMM use a file, or all below a directory, that no section names.
    pub fn grant(self, path: &Path) -> Self {
        self.append("landlock_rules", json!({"path": path, "access": "rw"}))
    }

    /// Does without Landlock.
    pub fn unconfined(self) -> Self {
        self.with("landlock_enable", json!(false))
    }

    fn append(mut self, section: &str, entry: Value) -> Self {
        match &mut self.config[section] {
            Value::Array(entries) => entries.push(entry),
            empty => *empty = json!([entry]),
        }
        self
    }

    /// Sets a whole section of the configuration.
    pub fn with(mut self, section: &str, value: Value) -> Self {
        self.config[section] = value;
        self
    }

    /// Puts the agent elsewhere.
    pub fn agent(mut self, agent: AgentOn) -> Self {
        self.agent = agent;
        self
    }

    /// Adds words to the kernel's command line.
    pub fn cmdline(mut self, words: &str) -> Self {
        self.cmdline = format!("{} {words}", self.cmdline);
        self
    }

    /// Lets the kernel write all its messages. An emulated CPU needs a millisecond for each character on the serial
    /// port, so only tests that look at them ask for it; `VMTEST_VERBOSE=1` asks for all tests.
    pub fn verbose(self) -> Self {
        self.cmdline("loglevel=7")
    }

    /// Gives the VMM another standard output than a file.
    pub fn output(mut self, output: OwnedFd) -> Self {
        self.output = Some(output);
        self
    }

    /// Adds a command line flag of the VMM.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Boots over REST and waits for the agent.
    ///
    /// # Panics
    /// A step fails.
    pub fn boot(self) -> Vm {
        let vm = self.start();
        vm.create();
        vm.boot();
        vm.wait_ready();
        vm
    }

    /// Boots from the command line and waits for the agent.
    ///
    /// # Panics
    /// A step fails.
    pub fn boot_from_flags(mut self) -> Vm {
        self.finish();
        let mut flags = config::flags(&self.config);
        flags.append(&mut self.flags);
        self.flags = flags;
        let vm = self.launch();
        vm.wait_ready();
        vm
    }

    /// Starts the VMM only; the VM is not created.
    ///
    /// # Panics
    /// The process does not start.
    pub fn start(mut self) -> Vm {
        self.finish();
        self.launch()
    }

    fn mode(&self, section: &str) -> String {
        self.config[section]["mode"].as_str().unwrap_or_default().to_owned()
    }

    /// Writes the kernel's command line: where its messages go and where the agent listens.
    fn finish(&mut self) {
        let kernel = if self.mode("serial") == "Off" { "hvc0" } else { "ttyS0" };
        let agent = match self.agent {
            AgentOn::Serial => " agent=ttyS0",
            AgentOn::Console => " agent=hvc0",
            AgentOn::Nobody => "",
        };
        let quiet = if std::env::var_os("VMTEST_VERBOSE").is_some() { "" } else { " quiet" };
        let line = format!("console={kernel} panic=-1{agent}{quiet}{}", self.cmdline);
        self.config["payload"]["cmdline"] = json!(line);
    }

    fn launch(mut self) -> Vm {
        let terminal = [self.mode("serial"), self.mode("console")].iter().any(|mode| mode == "Tty");
        let (vmm, terminal) = if terminal {
            let (vmm, terminal) = Vmm::start_on_terminal(self.context, &self.flags);
            (vmm, Some(terminal))
        } else if let Some(output) = self.output.take() {
            (Vmm::start_with_output(self.context, &self.flags, output), None)
        } else {
            (Vmm::start(self.context, &self.flags), None)
        };
        let open = |section: &'static str| {
            let console = self.other_end(section, &vmm.api, terminal.as_ref())?;
            let shown = console.clone();
            self.context.evidence(format!("guest's {section}"), move || shown.text());
            Some(console)
        };
        let (serial, console) = (open("serial"), open("console"));
        let agent = match self.agent {
            AgentOn::Serial => serial.clone(),
            AgentOn::Console => console.clone(),
            AgentOn::Nobody => None,
        };
        Vm { vmm, config: self.config, serial, console, agent: agent.map(Agent::new) }
    }

    fn other_end(&self, section: &'static str, api: &Client, terminal: Option<&Console>) -> Option<Console> {
        let path = |key: &str| PathBuf::from(self.config[section][key].as_str().unwrap_or_default());
        match self.mode(section).as_str() {
            "Socket" => Some(Console::socket(path("socket"))),
            "File" => Some(Console::file(path("file"))),
            "Tty" => terminal.cloned(),
            "Pty" => {
                let api = api.clone();
                Some(Console::pty(move || api.pty(section)))
            }
            _ => None,
        }
    }
}

/// The section of a raw disk with more settings.
pub fn raw_disk(path: &Path, more: Value) -> Value {
    let mut disk = json!({"path": path, "image_type": "Raw"});
    merge(&mut disk, more);
    disk
}

fn merge(into: &mut Value, more: Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

impl Vm {
    /// The REST client.
    pub fn api(&self) -> &Client {
        &self.vmm.api
    }

    /// PUT vm.create with the configuration.
    ///
    /// # Panics
    /// It is refused.
    pub fn create(&self) {
        self.api().put_json("vm.create", &self.config).expect(204);
    }

    /// PUT vm.boot.
    ///
    /// # Panics
    /// It is refused.
    pub fn boot(&self) {
        self.api().put("vm.boot").expect(204);
    }

    /// The agent.
    ///
    /// # Panics
    /// The VM was built without one.
    pub fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap_or_else(|| panic!("this VM has no agent"))
    }

    /// Waits for the agent after a boot or reboot, if there is one.
    ///
    /// # Panics
    /// It does not come.
    pub fn wait_ready(&self) {
        if let Some(agent) = &self.agent {
            agent.wait_ready();
        }
    }

    /// Runs a command in the guest.
    ///
    /// # Panics
    /// The guest does not answer.
    pub fn run(&self, command: &str) -> Output {
        self.agent().run(command)
    }

    /// Runs a command in the guest that must succeed; returns its trimmed output.
    ///
    /// # Panics
    /// It fails.
    pub fn ok(&self, command: &str) -> String {
        self.agent().ok(command)
    }

    /// Waits until the state is `state`.
    ///
    /// # Panics
    /// It is not in time.
    pub fn wait_state(&self, state: &str) {
        wait::until_true(wait::COMMAND, &format!("the state {state}"), || {
            self.api().state().is_some_and(|now| now == state)
        });
    }

    /// How many CPUs the guest runs. It starts those that have come, if its kernel does not do so itself.
    ///
    /// # Panics
    /// The guest does not answer.
    pub fn online_cpus(&self) -> u64 {
        self.run("for cpu in /sys/devices/system/cpu/cpu*/online; do echo 1 2>/dev/null >$cpu; done");
        self.ok("nproc").parse().unwrap()
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        events::read(&self.vmm.events)
    }

    /// Waits until an event of this name (`source/event`) was seen `count` times; returns the last of them.
    ///
    /// # Panics
    /// It was not in time.
    pub fn wait_event(&self, name: &str, count: usize) -> Event {
        wait::until(wait::COMMAND, &format!("{count} events {name}"), || {
            let mut seen: Vec<Event> = self.events().into_iter().filter(|event| event.name == name).collect();
            if seen.len() >= count { seen.pop() } else { None }
        })
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        for console in self.serial.iter().chain(&self.console) {
            console.close();
        }
    }
}
