//! RAM whose pages come when they are first touched, from a snapshot or another host.
//!
//! A page is *awaited* until it has been filled, or the guest has given it back, which fills it with zeroes: [`crate::DmaView::discard`]
//! knows of it. So nothing arrives in a page that was discarded, whichever comes first.
//!
//! ```text
//!  vCPU, device ──touches──▶ missing page, waits ──▶ OnDemand::fault ──▶ awaited? ──▶ fill ──┐
//!       ▲                                                  (crate pager)    no ──▶ zero ─┤
//!       └──────────────────────────────── goes on ◀──────────────────────────────────────┘
//! ```

mod uffd;

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use crate::bits::PageBits;
use crate::part::{Backing, PAGE, Part};
use crate::{GuestRam, layout};
use uffd::{Put, Uffd};

/// Why pages cannot come on demand. Copying all of them before the guest runs works always.
#[derive(Debug, Error)]
pub enum DemandError {
    /// The host does not let this process.
    #[error(
        "The host has no userfaultfd for this process: let it open /dev/userfaultfd, give it CAP_SYS_PTRACE, or restore with \
         memory_restore_mode=copy"
    )]
    Unavailable(#[source] io::Error),
    /// The kernel cannot do it for this kind of memory.
    #[error(
        "RAM at {base:#x} of memory zone '{zone}' cannot come on demand: restore with memory_restore_mode=copy"
    )]
    Unsuited {
        /// The region's first address.
        base: u64,
        /// The zone.
        zone: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// Some of what is to come is no RAM.
    #[error("There are no {len} bytes of RAM at {base:#x}")]
    Outside {
        /// First address.
        base: u64,
        /// Bytes.
        len: u64,
    },
    /// Pages of this region are awaited, or were, for another source.
    #[error("RAM at {0:#x} has come on demand before")]
    Twice(u64),
}

/// The pages of a region that are to come.
#[derive(Debug)]
pub(crate) struct Awaited {
    /// Held while a page comes or goes. By host page, which may be a huge one.
    pages: Mutex<PageBits>,
    /// Stays open as long as the memory: a closed one would let those who wait go on, with zeroes.
    uffd: Arc<Uffd>,
}

impl Awaited {
    fn lock(&self) -> MutexGuard<'_, PageBits> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is to come to these host pages any more; nothing comes to any page while the answer lives.
    pub(crate) fn forget(&self, pages: Range<usize>) -> MutexGuard<'_, PageBits> {
        let awaited = self.lock();
        awaited.clear(pages);
        awaited
    }
}

/// Pages of guest RAM that are to come. Whoever touches one waits until [`OnDemand::fill`] or [`OnDemand::zero`] has put something there.
#[derive(Debug)]
pub struct OnDemand {
    uffd: Arc<Uffd>,
    /// In ascending order.
    parts: Vec<Arc<Part>>,
}

impl OnDemand {
    /// Has the bytes of `runs` (guest addresses and lengths) come on demand. What is there in their regions is dropped; what lies in a region
    /// of theirs and not in `runs` is zero. Nobody uses this RAM yet.
    ///
    /// # Errors
    /// [`DemandError`]; the RAM is to be thrown away then.
    pub fn new(ram: &GuestRam, runs: &[layout::Range]) -> Result<Self, DemandError> {
        let uffd = Arc::new(Uffd::open().map_err(DemandError::Unavailable)?);
        let mut all = Self { uffd, parts: Vec::new() };
        let map = ram.map();
        for &(base, len) in runs {
            let mut covered = 0;
            for (region, pages) in map.parts(base, len) {
                let Some(part) = Part::of(region) else { continue };
                covered += (pages.len() * PAGE) as u64;
                all.await_pages(&part, pages)?;
            }
            if covered < len {
                return Err(DemandError::Outside { base, len });
            }
        }
        all.parts.sort_by_key(|part| part.saved.base);
        Ok(all)
    }

    fn await_pages(&mut self, part: &Arc<Part>, pages: Range<usize>) -> Result<(), DemandError> {
        let page = part.host_page() as usize / PAGE;
        let awaited = match part.awaited.get() {
            Some(awaited) if Arc::ptr_eq(&awaited.uffd, &self.uffd) => awaited,
            Some(_) => return Err(DemandError::Twice(part.saved.base)),
            None => {
                self.prepare(part).map_err(|source| {
                    let saved = &part.saved;
                    DemandError::Unsuited { base: saved.base, zone: saved.zone.clone(), source }
                })?;
                self.parts.push(part.clone());
                let pages = Mutex::new(PageBits::new(part.pages().div_ceil(page)));
                part.awaited.get_or_init(|| Awaited { pages, uffd: self.uffd.clone() })
            }
        };
        awaited.lock().set(pages.start / page..pages.end.div_ceil(page));
        Ok(())
    }

    fn prepare(&self, part: &Part) -> io::Result<()> {
        // What a file has there would be read instead of waited for.
        if matches!(part.backing, Backing::Copied { .. }) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it is mapped from a file privately"));
        }
        self.uffd.register(part.start(), part.size())?;
        // A page that is there would never be missed.
        part.give_back(0..part.pages())
    }

    /// The page that somebody waits for: the address of its first byte and its size. Never waits itself; poll the descriptor for that.
    ///
    /// # Errors
    /// The kernel's.
    pub fn fault(&self) -> io::Result<Option<layout::Range>> {
        while let Some(address) = self.uffd.fault()? {
            let found = self.parts.iter().find_map(|part| {
                let offset =
                    address.checked_sub(part.start().addr()).filter(|offset| *offset < part.size())?;
                let page = part.host_page();
                Some((part.saved.base + offset as u64 / page * page, page))
            });
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The first stretch at or behind `from` that is awaited, in whole host pages of one region: as many as fit into `most` bytes, one at
    /// least.
    pub fn next(&self, from: u64, most: usize) -> Option<layout::Range> {
        self.parts.iter().find_map(|part| {
            let page = part.host_page();
            let first = from.saturating_sub(part.saved.base).div_ceil(page) as usize;
            let pages = part.awaited.get()?.lock();
            let run = pages.run(first..part.size() / page as usize, true)?;
            let len = run.len().min((most / page as usize).max(1));
            Some((part.saved.base + run.start as u64 * page, len as u64 * page))
        })
    }

    /// Whether something is to come to the page at `base`.
    pub fn is_awaited(&self, base: u64) -> bool {
        self.part(base).is_some_and(|(part, offset)| {
            let page = offset / part.host_page() as usize;
            part.awaited.get().is_some_and(|awaited| awaited.lock().has(page))
        })
    }

    /// Bytes that are to come.
    pub fn left(&self) -> u64 {
        let left = |part: &Arc<Part>| Some(part.awaited.get()?.lock().count() as u64 * part.host_page());
        self.parts.iter().filter_map(left).sum()
    }

    /// Puts `bytes`, whole host pages, to `base` where they are still awaited. Pages of zeroes are left out, except huge ones: they cost
    /// nothing until they are touched, and [`OnDemand::zero`] answers that. Says how many bytes were put.
    ///
    /// # Errors
    /// The kernel's, if it has no memory left; what was not put is still awaited.
    pub fn fill(&self, base: u64, bytes: &[u8]) -> io::Result<usize> {
        let (part, offset) = self.part(base).ok_or(io::ErrorKind::NotFound)?;
        let page = part.host_page() as usize;
        let is_whole = offset.is_multiple_of(page) && bytes.len().is_multiple_of(page);
        if !is_whole || bytes.len() > part.size() - offset {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let Some(awaited) = part.awaited.get() else { return Ok(0) };
        let (first, end) = (offset / page, (offset + bytes.len()) / page);
        let content = |from: usize, to: usize| {
            bytes.get((from - first) * page..(to - first) * page).unwrap_or_default()
        };
        let is_left_out = |number: &usize| !part.is_huge() && is_zero(content(*number, *number + 1));
        let pages = awaited.lock();
        let (mut at, mut filled) = (first, 0);
        while let Some(run) = pages.run(at..end, true) {
            at = run.clone().find(|number| !is_left_out(number)).unwrap_or(run.end);
            pages.clear(run.start..at);
            let stop = (at..run.end).find(is_left_out).unwrap_or(run.end);
            if stop > at {
                let put = self.put(part, at * page, content(at, stop))?;
                pages.clear(at..at + put / page);
                at += put / page;
                filled += put;
            }
        }
        Ok(filled)
    }

    /// Answers a page that is missing and not awaited: it is zero. Lets those go on that wait for it.
    ///
    /// # Errors
    /// The kernel's, if it has no memory left.
    pub fn zero(&self, base: u64) -> io::Result<()> {
        let (part, offset) = self.part(base).ok_or(io::ErrorKind::NotFound)?;
        let page = part.host_page() as usize;
        let start = part.start().wrapping_add(offset / page * page);
        let put = if part.is_huge() {
            // The kernel has no ready page of zeroes of that size.
            // SAFETY: a host page of the part's mapping, which stays while the part does; guest RAM has no references to it.
            unsafe { self.uffd.copy(start, &vec![0; page]) }
        } else {
            // SAFETY: as above.
            unsafe { self.uffd.zero(start, page) }
        };
        match put? {
            Put::Done(len) if len == page => Ok(()),
            _ => self.uffd.wake(start, page),
        }
    }

    /// Puts `bytes` to `offset` of the part, where nothing is as a rule. Answers how many of them, one page at least, need no more be put.
    fn put(&self, part: &Part, offset: usize, bytes: &[u8]) -> io::Result<usize> {
        /// A kernel that does nothing so often has no memory.
        const ATTEMPTS: u32 = 100;
        let page = part.host_page() as usize;
        let start = part.start().wrapping_add(offset);
        for _ in 0..ATTEMPTS {
            // SAFETY: `bytes` fit into the part's mapping from `offset` on, which stays while the part does; guest RAM has no references
            // to it.
            match unsafe { self.uffd.copy(start, bytes) }? {
                Put::Done(0) => {}
                Put::Done(len) => return Ok(len),
                // The first page is there: whoever waits for it may not have noticed.
                Put::Taken => return self.uffd.wake(start, page).map(|()| page),
                Put::Gone => return Ok(bytes.len()),
            }
        }
        Err(io::ErrorKind::OutOfMemory.into())
    }

    /// Ends it when everything has come: pages that are missing now are zero without anybody's help.
    ///
    /// # Errors
    /// The kernel's. If something is still awaited nothing happens.
    pub fn release(&self) -> io::Result<()> {
        if self.left() > 0 {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.parts.iter().try_for_each(|part| self.uffd.unregister(part.start(), part.size()))
    }

    /// The part that has `address`, and where in it.
    fn part(&self, address: u64) -> Option<(&Part, usize)> {
        self.parts.iter().find_map(|part| {
            let offset = usize::try_from(address.checked_sub(part.saved.base)?).ok()?;
            (offset < part.size()).then_some((&**part, offset))
        })
    }
}

impl AsFd for OnDemand {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.uffd.as_fd()
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    const ZEROES: [u8; PAGE] = [0; PAGE];
    bytes.chunks(PAGE).all(|chunk| ZEROES.get(..chunk.len()) == Some(chunk))
}

#[cfg(test)]
mod tests;
