use std::thread::{JoinHandle, spawn};

use config::plan::Zone;
use rustix::event::{PollFd, PollFlags, poll};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::{NoFiles, test_ram};

const SIZE: u64 = 4096;

/// `None`, and a line, where the host has no userfaultfd.
fn on_demand(ram: &GuestRam, runs: &[layout::Range]) -> Option<OnDemand> {
    match OnDemand::new(ram, runs) {
        Err(error @ DemandError::Unavailable(_)) => {
            eprintln!("skipped: {error}");
            None
        }
        demand => Some(demand.unwrap()),
    }
}

/// RAM of 16 pages: private and shared.
fn both() -> [GuestRam; 2] {
    let shared = Zone { shared: true, ..Zone::new("z", 16 * SIZE) };
    [test_ram(&[(0, 16 * SIZE as usize)]), GuestRam::allocate(&[shared]).unwrap()]
}

fn number(ram: &GuestRam, page: u64) -> u64 {
    ram.map().read_obj(GuestAddress(page * SIZE)).unwrap()
}

/// A thread that reads the first number of a page.
fn reader(ram: &GuestRam, page: u64) -> JoinHandle<u64> {
    let ram = ram.clone();
    spawn(move || number(&ram, page))
}

/// The page that somebody waits for.
fn fault(demand: &OnDemand) -> layout::Range {
    loop {
        if let Some(page) = demand.fault().unwrap() {
            return page;
        }
        poll(&mut [PollFd::new(demand, PollFlags::IN)], None).unwrap();
    }
}

/// Pages that each begin with their number.
fn pages(numbers: &[u64]) -> Vec<u8> {
    let page = |number: &u64| [&number.to_le_bytes()[..], &[0; SIZE as usize - 8]].concat();
    numbers.iter().flat_map(page).collect()
}

#[test]
fn who_touches_a_page_waits_for_it() {
    for ram in both() {
        let Some(demand) = on_demand(&ram, &[(SIZE, 4 * SIZE), (8 * SIZE, SIZE)]) else { return };
        assert_eq!((demand.left(), demand.fault().unwrap()), (5 * SIZE, None));
        let thread = reader(&ram, 2);
        assert_eq!(fault(&demand), (2 * SIZE, SIZE));
        assert!(demand.is_awaited(2 * SIZE));
        assert_eq!(demand.fill(2 * SIZE, &pages(&[2])).unwrap() as u64, SIZE);
        assert_eq!((thread.join().unwrap(), demand.left()), (2, 4 * SIZE));
        assert!(!demand.is_awaited(2 * SIZE) && !demand.is_awaited(6 * SIZE));
        let thread = reader(&ram, 6);
        assert_eq!(fault(&demand), (6 * SIZE, SIZE), "the whole region waits for answers");
        demand.zero(6 * SIZE).unwrap();
        assert_eq!(thread.join().unwrap(), 0);
    }
}

#[test]
fn only_what_is_awaited_is_filled() {
    for ram in both() {
        let Some(demand) = on_demand(&ram, &[(SIZE, 8 * SIZE)]) else { return };
        assert_eq!(demand.next(0, 1 << 20), Some((SIZE, 8 * SIZE)));
        assert_eq!(demand.fill(3 * SIZE, &pages(&[3])).unwrap() as u64, SIZE);
        assert_eq!(demand.next(0, 1 << 20), Some((SIZE, 2 * SIZE)));
        assert_eq!(demand.next(2 * SIZE, 1), Some((2 * SIZE, SIZE)));
        ram.map().write_obj(33u64, GuestAddress(3 * SIZE)).unwrap();
        // Pages 5 and 6 are zero: they are left out, and not awaited any more.
        let filled = demand.fill(0, &pages(&[10, 11, 12, 13, 14, 0, 0, 17, 18])).unwrap() as u64;
        assert_eq!((filled, demand.left(), demand.next(0, 1)), (5 * SIZE, 0, None));
        demand.release().unwrap();
        let numbers: Vec<_> = (0..10).map(|page| number(&ram, page)).collect();
        assert_eq!(numbers, [0, 11, 12, 33, 14, 0, 0, 17, 18, 0]);
    }
}

/// A page that the guest gives back is zero, whether its content was there already or not.
#[test]
fn nothing_comes_to_a_page_that_was_discarded() {
    for ram in both() {
        let Some(demand) = on_demand(&ram, &[(0, 4 * SIZE)]) else { return };
        demand.fill(0, &pages(&[10])).unwrap();
        ram.dma().view().discard(GuestAddress(0), 2 * SIZE).unwrap();
        assert_eq!((demand.left(), demand.next(0, 1)), (2 * SIZE, Some((2 * SIZE, SIZE))));
        // It was on its way when the guest gave the page back.
        assert_eq!(demand.fill(0, &pages(&[10, 11, 12])).unwrap() as u64, SIZE);
        for page in 0..2 {
            let thread = reader(&ram, page);
            assert_eq!(fault(&demand), (page * SIZE, SIZE));
            demand.zero(page * SIZE).unwrap();
            assert_eq!(thread.join().unwrap(), 0);
        }
        assert_eq!(number(&ram, 2), 12);
    }
}

#[test]
fn a_page_that_is_there_is_no_fault() {
    let ram = test_ram(&[(0, 4 * SIZE as usize)]);
    let Some(demand) = on_demand(&ram, &[(0, 4 * SIZE)]) else { return };
    demand.fill(SIZE, &pages(&[1])).unwrap();
    // Answered twice, as when two threads have waited for the same page.
    demand.zero(SIZE).unwrap();
    assert_eq!(number(&ram, 1), 1);
    assert!(demand.release().is_err(), "something is awaited");
    assert!(demand.fill(3 * SIZE, &pages(&[3, 4])).is_err(), "beyond the region");
    assert!(demand.fill(SIZE + 8, &pages(&[3])).is_err() && demand.fill(0, &[1]).is_err(), "no whole pages");
    assert!(demand.fill(4 * SIZE, &pages(&[4])).is_err() && demand.zero(1 << 40).is_err(), "no RAM");
}

/// What was there before, from touching all pages at the start for instance, does not hide what comes.
#[test]
fn what_is_there_already_is_dropped() {
    for ram in both() {
        ram.map().write_obj(7u64, GuestAddress(SIZE)).unwrap();
        let Some(demand) = on_demand(&ram, &[(0, 2 * SIZE)]) else { return };
        demand.fill(0, &pages(&[10, 11])).unwrap();
        assert_eq!(number(&ram, 1), 11);
    }
}

#[test]
fn what_cannot_come_on_demand() {
    let ram = test_ram(&[(0, 4 * SIZE as usize), (8 * SIZE, 4 * SIZE as usize)]);
    let Some(_demand) = on_demand(&ram, &[(SIZE, SIZE)]) else { return };
    assert!(matches!(OnDemand::new(&ram, &[(0, SIZE)]), Err(DemandError::Twice(0))));
    for (base, len) in [(8 * SIZE, 5 * SIZE), (4 * SIZE, SIZE), (9 * SIZE, u64::MAX)] {
        let refused = OnDemand::new(&test_ram(&[(8 * SIZE, 4 * SIZE as usize)]), &[(base, len)]);
        assert!(matches!(refused, Err(DemandError::Outside { .. })), "{refused:?}");
    }
    let path = std::env::temp_dir().join(format!("memory-demand-{}", std::process::id()));
    let zone = Zone { file: Some(path.clone()), ..Zone::new("z", 4 * SIZE) };
    let ranges = GuestRam::allocate(std::slice::from_ref(&zone)).unwrap().ranges();
    let (ram, _) = GuestRam::restore(&[zone], &ranges, &NoFiles).unwrap();
    std::fs::remove_file(path).unwrap();
    let refused = OnDemand::new(&ram, &[(0, SIZE)]).unwrap_err();
    assert!(
        matches!(refused, DemandError::Unsuited { .. }) && refused.to_string().contains("'z'"),
        "{refused}"
    );
}

/// Huge pages come as a whole, and an answer of zeroes is a whole one as well.
#[test]
fn huge_pages_come_on_demand() {
    const HUGE: u64 = 2 << 20;
    for shared in [false, true] {
        let pages = config::plan::Pages::Huge { size: Some(HUGE) };
        let ram = match GuestRam::allocate(&[Zone { pages, shared, ..Zone::new("z", 4 * HUGE) }]) {
            Ok(ram) => ram,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let Some(demand) = on_demand(&ram, &[(HUGE + SIZE, SIZE), (2 * HUGE, 2 * HUGE)]) else { return };
        assert_eq!((demand.left(), demand.next(0, 1)), (3 * HUGE, Some((HUGE, HUGE))));
        let thread = reader(&ram, HUGE / SIZE + 5);
        assert_eq!(fault(&demand), (HUGE, HUGE));
        demand.fill(HUGE, &[7; HUGE as usize]).unwrap();
        assert_eq!(thread.join().unwrap(), u64::from_ne_bytes([7; 8]));
        ram.dma().view().discard(GuestAddress(2 * HUGE), HUGE).unwrap();
        for base in [0, 2 * HUGE] {
            let thread = reader(&ram, base / SIZE);
            assert_eq!(fault(&demand), (base, HUGE));
            demand.zero(base).unwrap();
            assert_eq!(thread.join().unwrap(), 0);
        }
        let occupied = ram.map().occupied(0, 4 * HUGE);
        assert!(occupied.contains(&(HUGE, HUGE)) || occupied == [(0, 3 * HUGE)], "{occupied:?}");
        assert!(
            occupied.iter().all(|(base, len)| base + len <= 3 * HUGE),
            "no page for a look: {occupied:?}"
        );
    }
}
