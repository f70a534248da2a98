use device::Stateful;

use super::register::{EJECT, ENABLED, INSERTING, REMOVING};
use super::*;

const BASE: u64 = 0xfff0_0000;

/// Four possible CPUs, two of them present.
fn controller() -> CpuController {
    CpuController::new(BASE, vec![0, 2, 4, 6], 2)
}

fn select(controller: &mut CpuController, cpu: u32) {
    let _ = controller.write(Access { region: 0, offset: register::SELECT }, &cpu.to_le_bytes());
}

fn status(controller: &mut CpuController, cpu: u32) -> u8 {
    select(controller, cpu);
    let mut data = [0xff];
    controller.read(Access { region: 0, offset: register::STATUS }, &mut data);
    data[0]
}

fn tell(controller: &mut CpuController, cpu: u32, done: u8) -> Effect {
    select(controller, cpu);
    controller.write(Access { region: 0, offset: register::STATUS }, &[done])
}

#[test]
fn a_cpu_comes_and_goes() {
    let mut controller = controller();
    let slots = controller.slots();
    assert_eq!([0, 1, 2, 3].map(|cpu| status(&mut controller, cpu)), [ENABLED, ENABLED, 0, 0]);
    slots.insert(3);
    assert_eq!((slots.staying(), slots.are_leaving()), (3, false));
    assert_eq!([1, 2, 3].map(|cpu| status(&mut controller, cpu)), [ENABLED, ENABLED | INSERTING, 0]);
    assert_eq!(tell(&mut controller, 2, INSERTING), Effect::None);
    assert_eq!(status(&mut controller, 2), ENABLED);

    slots.ask_to_leave(1);
    assert_eq!((slots.staying(), slots.are_leaving()), (1, true));
    assert_eq!(status(&mut controller, 1), ENABLED | REMOVING);
    assert_eq!([1, 2].map(|cpu| tell(&mut controller, cpu, REMOVING)), [Effect::None; 2]);
    assert_eq!(status(&mut controller, 1), ENABLED, "it has been told, and has it still");
    assert!(slots.is_present(2));
    assert_eq!(tell(&mut controller, 2, EJECT), Effect::Ejected);
    assert!(!slots.is_present(2) && slots.is_present(1));
    // Whoever does not answer is asked again.
    slots.ask_to_leave(1);
    assert_eq!([1, 2].map(|cpu| status(&mut controller, cpu)), [ENABLED | REMOVING, 0]);
    assert_eq!(tell(&mut controller, 1, EJECT | REMOVING), Effect::Ejected);
    assert_eq!((slots.staying(), slots.are_leaving()), (1, false));
}

#[test]
fn nothing_leaves_unasked_and_the_first_never() {
    let mut controller = controller();
    let slots = controller.slots();
    let fresh = controller.to_saved().unwrap();
    for cpu in [0, 1, 2, 3, 4, 0x8000_0000, u32::MAX] {
        for done in [EJECT, 0xff, REMOVING, INSERTING | EJECT] {
            assert_eq!(tell(&mut controller, cpu, done), Effect::None);
        }
    }
    select(&mut controller, 0);
    assert_eq!(controller.to_saved().unwrap(), fresh);
    slots.ask_to_leave(0);
    let effects = [0, 1, 1].map(|cpu| tell(&mut controller, cpu, EJECT));
    assert_eq!(effects, [Effect::None, Effect::Ejected, Effect::None]);
    assert_eq!((slots.is_present(0), slots.is_present(1)), (true, false));
    slots.insert(100);
    assert_eq!(slots.staying(), 4, "there are no other places");
}

#[test]
fn registers_may_be_read_and_written_in_any_pieces() {
    let mut controller = controller();
    for (offset, byte) in (0..).zip([0x44, 0x33, 0x22, 0x11]) {
        let _ = controller.write(Access { region: 0, offset }, &[byte]);
    }
    let mut all = [0xff; 12];
    controller.read(Access { region: 0, offset: 0 }, &mut all);
    assert_eq!(all, [0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0, 0, 0, 0, 0]);
    controller.slots().insert(3);
    // Selects CPU 2 and acknowledges it in one.
    let _ = controller.write(Access { region: 0, offset: 0 }, &[2, 0, 0, 0, INSERTING, 1, 2, 3]);
    controller.read(Access { region: 0, offset: 3 }, &mut all[..2]);
    assert_eq!(all[..2], [0, ENABLED]);
}

#[test]
fn states_that_cannot_be_are_refused() {
    let mut controller = controller();
    let good = State { selected: 7, slots: vec![1, 0x17, 3, 0] };
    Persist::restore(&mut controller, good.clone()).unwrap();
    for slots in [
        vec![1, 1, 1],
        vec![1, 1, 1, 1, 1],
        vec![0, 1, 1, 1],
        vec![0x11, 1, 1, 1],
        vec![1, 0x10, 0, 0],
        vec![1, 2, 0, 0],
        vec![1, 5, 0, 0],
        vec![1, 0x21, 0, 0],
    ] {
        let state = State { slots, ..good.clone() };
        assert!(Persist::restore(&mut controller, state.clone()).is_err(), "{state:?}");
    }
    assert_eq!(controller.save(), good);
}

#[test]
fn the_guest_is_told_of_every_cpu() {
    let controller = controller();
    let aml = controller.aml();
    let contains = |needle: &[u8]| aml.windows(needle.len()).any(|window| window == needle);
    for name in
        ["PRES", "PRST", "CSEL", "CPEN", "CINS", "CRMV", "CEJ0", "CCMD", "CDAT", "CPUS", "CSCN", "C003"]
    {
        assert!(contains(name.as_bytes()), "{name}");
    }
    assert!(!contains(b"C004"));
    // Region (PRST, SystemMemory, base, 12)
    assert!(contains(&[b"PRST\0\x0c", &(BASE as u32).to_le_bytes()[..], &[0x0a, 12]].concat()));
    // Name (_MAT, Buffer (16) { ... })
    assert!(contains(&[b"_MAT\x11\x13\x0a\x10".as_slice(), &madt_entry(6, 1, 3)].concat()));
    let ejects = aml.windows(4).filter(|window| *window == b"_EJ0").count();
    assert_eq!(ejects, 3, "all but the first");
}

#[test]
fn cpus_are_in_the_nodes_they_are_said_to_be_in() {
    let controller = controller();
    let nodes = |aml: &[u8]| {
        let found = aml.windows(6).filter(|window| window.starts_with(b"_PXM"));
        found.map(|window| (window[4], window[5])).collect::<Vec<_>>()
    };
    assert_eq!(nodes(&controller.aml()), []);
    let aml = controller.in_nodes([(0, 0), (3, 7)].into()).aml();
    // Zero, which is an object of its own, and a byte.
    assert_eq!(nodes(&aml).iter().map(|node| node.0).collect::<Vec<_>>(), [0, 0x0a]);
    assert_eq!(nodes(&aml)[1].1, 7);
}

#[test]
fn names_go_on_where_three_digits_end() {
    let aml = CpuController::new(BASE, (0..8192).collect(), 1).aml();
    assert!(
        ["CFFF", "D000", "DFFF"].iter().all(|name| aml.windows(4).any(|window| window == name.as_bytes()))
    );
}

/// Splits a block of AML off behind its opcode: what lies in it, and what follows.
fn block(code: &[u8]) -> (&[u8], &[u8]) {
    let more = usize::from(code[0] >> 6);
    let low = usize::from(code[0]) & if more == 0 { 0x3f } else { 0xf };
    let high = code[1..=more].iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (inside, behind) = code.split_at(high << 4 | low);
    (&inside[1 + more..], behind)
}

/// The object that `CTFY (cpu, event)` notifies, and how many questions that takes. `code` is the method's.
fn notified(mut code: &[u8], cpu: u32) -> (&[u8], u32) {
    const IF: u8 = 0xa0;
    const ELSE: u8 = 0xa1;
    const NOTIFY: u8 = 0x86;
    const ARG0_IS_LESS: [u8; 2] = [0x95, 0x68];
    let mut questions = 0;
    while code[0] == IF {
        questions += 1;
        let (inside, behind) = block(&code[1..]);
        let number = inside.strip_prefix(&ARG0_IS_LESS).unwrap();
        let (bound, then) = match number {
            [1, then @ ..] => (1, then),
            [0x0a, byte, then @ ..] => (u32::from(*byte), then),
            [0x0b, low, high, then @ ..] => (u16::from_le_bytes([*low, *high]).into(), then),
            other => panic!("{other:x?}"),
        };
        code = if cpu < bound { then } else { block(behind.strip_prefix(&[ELSE]).unwrap()).0 };
    }
    assert_eq!(code[0], NOTIFY);
    (&code[1..5], questions)
}

#[test]
fn each_of_many_cpus_is_found_with_few_questions() {
    for (count, limit) in [(1, 0), (5, 3), (8192, 13)] {
        let aml = CpuController::new(BASE, (0..count).collect(), 1).aml();
        // The first mention is the method itself; its flags come between.
        let begin = aml.windows(4).position(|window| window == b"CTFY").unwrap() + 5;
        for cpu in [0, 1, count / 2, count - 1].into_iter().filter(|cpu| *cpu < count) {
            let (name, questions) = notified(&aml[begin..], cpu);
            assert_eq!(name, format!("{:04X}", 0xc000 + cpu).as_bytes());
            assert!(questions <= limit, "{questions} for CPU {cpu} of {count}");
        }
    }
}

#[test]
fn contract() {
    device::contract::check(&mut controller());
}

/// The contract of a controller that has CPUs coming and going. Its reset is that of power-on.
#[test]
fn contract_while_cpus_move() {
    let mut controller = controller();
    let slots = controller.slots();
    device::contract::check_after(&mut controller, |_| {
        slots.insert(4);
        slots.ask_to_leave(3);
    });
}
