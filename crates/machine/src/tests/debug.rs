//! A debugger beside control. The fake hypervisor's vCPUs execute instructions of one byte, and only for debuggers.

use std::os::fd::AsRawFd;

use device::Event;
use host::{ControlOperation, Epoll, EpollEvent, EventSet};
use hv::{Debugging, Registers};

use super::*;

fn step() -> Debugging {
    Debugging { step: true, ..Debugging::default() }
}

/// Who has stopped, when somebody has.
fn stopped(stops: &DebugStops) -> Vec<u32> {
    let epoll = Epoll::new().unwrap();
    let wanted = EpollEvent::new(EventSet::IN, 0);
    epoll.ctl(ControlOperation::Add, stops.wake_fd().as_raw_fd(), wanted).unwrap();
    assert_eq!(epoll.wait(30_000, &mut [EpollEvent::default()]).unwrap(), 1, "nobody stops");
    stops.take()
}

fn rip(debugger: &Debugger, number: u32) -> u64 {
    debugger.state(number).unwrap().unwrap().registers.rip
}

#[test]
fn a_machine_waits_for_a_debugger_that_steps_it() {
    let rig = Rig::new();
    let mut machine = rig.boot(&rig.plan(r#","cpus":{"boot_vcpus":2,"max_vcpus":2}"#));
    let desk = DebugDesk::new(rig.events.clone()).unwrap();
    assert!(desk.machine().is_none() && !desk.is_stopped());
    desk.take_in(machine.debugger()).unwrap();
    machine.start();
    assert!(desk.is_stopped());
    let (number, debugger) = desk.machine().unwrap();
    assert_eq!(debugger.vcpus().collect::<Vec<_>>(), [0, 1]);

    let stops = Arc::new(DebugStops::new().unwrap());
    debugger.set_registers(1, &Registers { rip: 0x100, rax: 7, ..Registers::default() }).unwrap();
    let first = rip(&debugger, 0);
    debugger.go(|vcpu| vcpu == 1, Some(&step()), &stops).unwrap();
    assert_eq!(stopped(&stops), [1]);
    assert_eq!((rip(&debugger, 0), rip(&debugger, 1)), (first, 0x101), "only one was let go");
    let state = debugger.state(1).unwrap().unwrap();
    assert_eq!(state.registers.rax, 7);
    let breakpoint = Debugging { hardware: [None, Some(0x200), None, None], ..Debugging::default() };
    debugger.go(|vcpu| vcpu == 1, Some(&breakpoint), &stops).unwrap();
    assert_eq!((stopped(&stops), rip(&debugger, 1)), (vec![1], 0x200));
    assert!(debugger.state(2).unwrap().is_none());

    // A guest that a debugger lets go runs; then the next one waits for nobody.
    debugger.go(|_| true, None, &stops).unwrap();
    desk.set_waits(false);
    let _ = rig.events.take();
    desk.set_stopped(number, false);
    assert!(!desk.is_stopped() && rig.events.take().has(Event::News));
    desk.set_stopped(number + 1, true);
    assert!(!desk.is_stopped(), "that is another machine");
    desk.take_in(machine.debugger()).unwrap();
    assert!(!desk.is_stopped());
    assert_eq!(desk.machine().unwrap().0, number + 1);
    desk.update(None);
    assert!(desk.machine().is_none());
}

#[test]
fn control_and_debugger_hold_vcpus_each_for_itself() {
    let rig = Rig::new();
    let mut machine = rig.boot(&rig.plan(""));
    let (debugger, stops) = (machine.debugger(), Arc::new(DebugStops::new().unwrap()));
    debugger.stop().unwrap();
    machine.start();
    machine.pause().unwrap();
    debugger.go(|_| true, Some(&step()), &stops).unwrap();
    let before = rip(&debugger, 0);
    assert!(stops.take().is_empty(), "control holds it");
    machine.resume();
    assert_eq!(stopped(&stops), [0]);
    assert_eq!(rip(&debugger, 0), before + 1);
    machine.pause().unwrap();
    machine.resume();
    assert_eq!((rip(&debugger, 0), stops.take()), (before + 1, vec![]), "the debugger holds it");
}

#[test]
fn a_debugger_sees_ram_and_outlives_the_machine() {
    let rig = Rig::new();
    let machine = rig.boot(&rig.plan(""));
    let debugger = machine.debugger();
    assert!(debugger.write(0x5000, b"abc"));
    let mut bytes = [0; 3];
    assert!(debugger.read(0x5000, &mut bytes));
    assert_eq!(&bytes, b"abc");
    assert!(!debugger.read(128 << 20, &mut bytes), "behind all RAM");
    assert!(!debugger.write((128 << 20) - 1, &bytes));
    drop(machine);
    assert!(matches!(debugger.stop(), Err(VcpuError::Ended(0))));
    assert!(matches!(debugger.state(0), Err(VcpuError::Ended(0))));
}
