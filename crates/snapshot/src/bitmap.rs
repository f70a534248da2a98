//! A bit for each page, as `memory-pages` has them: bit `n % 8` of byte `n / 8`. Parts without a bit cost no memory, so that what a file
//! claims costs its reader no more than its blocks cost a disk.

use std::io::{self, Read, Write};

/// Words of a part.
const WORDS: usize = 512;
/// Bytes of a part.
const PART: usize = WORDS * 8;
/// Pages of a part.
const PAGES: u64 = PART as u64 * 8;
const ALL: u64 = u64::MAX;

/// One bit for each of a number of pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bitmap {
    parts: Vec<Option<Box<[u64; WORDS]>>>,
    pages: u64,
}

/// A number that counts parts or words, which are fewer than a `usize` can count wherever [`crate::MAX_MEMORY`] is observed.
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Bitmap {
    /// All bits clear.
    pub(crate) fn new(pages: u64) -> Self {
        Self { parts: vec![None; index(pages.div_ceil(PAGES))], pages }
    }

    /// Bytes as a file.
    pub(crate) fn file_len(pages: u64) -> u64 {
        pages.div_ceil(8)
    }

    /// Reads the bits of `pages` pages.
    ///
    /// # Errors
    /// The reader's; `None`: there are bits beyond the last page.
    pub(crate) fn read(pages: u64, mut from: impl Read) -> io::Result<Option<Self>> {
        let mut map = Self::new(pages);
        let mut left = Self::file_len(pages);
        for part in &mut map.parts {
            let mut bytes = [0; PART];
            let len = index(left).min(PART);
            from.read_exact(bytes.get_mut(..len).unwrap_or_default())?;
            left = left.saturating_sub(PART as u64);
            if bytes != [0; PART] {
                let mut words = Box::new([0; WORDS]);
                for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
                    *word = u64::from_le_bytes(*bytes);
                }
                *part = Some(words);
            }
        }
        Ok((map.first(true, pages).is_none()).then_some(map))
    }

    /// Hands the file to `to`.
    ///
    /// # Errors
    /// The writer's.
    pub(crate) fn write(&self, mut to: impl Write) -> io::Result<()> {
        let mut left = Self::file_len(self.pages);
        for part in &self.parts {
            let mut bytes = [0; PART];
            for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(part.iter().flat_map(|p| p.iter())) {
                *bytes = word.to_le_bytes();
            }
            to.write_all(bytes.get(..index(left).min(PART)).unwrap_or_default())?;
            left = left.saturating_sub(PART as u64);
        }
        Ok(())
    }

    /// The 64 bits around `page`.
    fn word(&self, page: u64) -> u64 {
        let part = self.parts.get(index(page / PAGES)).and_then(Option::as_ref);
        part.and_then(|part| part.get(index(page % PAGES / 64))).copied().unwrap_or_default()
    }

    /// Whether the bit of `page` is set.
    #[cfg(test)]
    fn get(&self, page: u64) -> bool {
        self.word(page) >> (page % 64) & 1 != 0
    }

    /// Sets or clears the bits of `count` pages from `page` on; those that do not exist are left out.
    pub(crate) fn set(&mut self, page: u64, count: u64, value: bool) {
        let end = page.saturating_add(count).min(self.pages);
        let mut page = page;
        while page < end {
            let bits = (64 - page % 64).min(end - page);
            let mask = (ALL >> (64 - bits)) << (page % 64);
            let Some(part) = self.parts.get_mut(index(page / PAGES)) else { return };
            if value || part.is_some() {
                let part = part.get_or_insert_with(|| Box::new([0; WORDS]));
                if let Some(word) = part.get_mut(index(page % PAGES / 64)) {
                    *word = if value { *word | mask } else { *word & !mask };
                }
            }
            page += bits;
        }
    }

    /// The first page from `page` on whose bit is `value`. Beyond the last page, only set bits that should not be are found.
    fn first(&self, value: bool, page: u64) -> Option<u64> {
        let mut page = page;
        let end = self.parts.len() as u64 * PAGES;
        while page < end {
            if value && self.parts.get(index(page / PAGES)).is_none_or(Option::is_none) {
                page = (page / PAGES + 1) * PAGES;
                continue;
            }
            let word = if value { self.word(page) } else { !self.word(page) };
            let word = word >> (page % 64);
            if word != 0 {
                return Some(page + u64::from(word.trailing_zeros()));
            }
            page = (page / 64 + 1) * 64;
        }
        None
    }

    /// The bit of `page`, and how many pages from there on, at most `most`, have the same.
    pub(crate) fn run(&self, page: u64, most: u64) -> (bool, u64) {
        let value = self.word(page) >> (page % 64) & 1 != 0;
        let end = self.first(!value, page).unwrap_or(u64::MAX);
        (value, (end - page).min(most))
    }

    /// How many bits are set.
    pub(crate) fn count(&self) -> u64 {
        self.parts
            .iter()
            .flatten()
            .flat_map(|part| part.iter())
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: u64 = 2 * PAGES + 77;

    fn some() -> Bitmap {
        let mut map = Bitmap::new(COUNT);
        for (page, count) in [(0, 1), (63, 2), (200, 500), (PAGES - 1, 1), (2 * PAGES + 70, 7)] {
            map.set(page, count, true);
        }
        map
    }

    #[test]
    fn bits_are_set_cleared_and_counted() {
        let mut map = some();
        assert_eq!(map.count(), 1 + 2 + 500 + 1 + 7);
        assert!([0, 63, 64, 200, 699, COUNT - 1].into_iter().all(|page| map.get(page)));
        assert!([1, 62, 65, 199, 700, PAGES, COUNT].into_iter().all(|page| !map.get(page)));
        map.set(201, 498, false);
        map.set(PAGES + 5, 3, false);
        assert_eq!((map.count(), map.run(200, 9), map.run(201, 9)), (13, (true, 1), (false, 9)));
        assert!(map.parts[1].is_none(), "a part without a bit costs memory");
        map.set(COUNT - 1, 100, true);
        assert_eq!(map.first(true, COUNT), None, "pages that do not exist were marked");
    }

    #[test]
    fn runs_cross_words_and_parts() {
        let map = some();
        assert_eq!(map.run(1, u64::MAX), (false, 62));
        assert_eq!(map.run(250, u64::MAX), (true, 450));
        assert_eq!(map.run(250, 10), (true, 10));
        assert_eq!(map.run(PAGES, u64::MAX), (false, PAGES + 70));
        assert_eq!(map.run(COUNT - 2, 2), (true, 2));
        assert_eq!(Bitmap::new(0).run(0, 5), (false, 5));
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let mut file = Vec::new();
        some().write(&mut file).unwrap();
        assert_eq!((file.len() as u64, file[0], file[7], file[8]), (Bitmap::file_len(COUNT), 1, 0x80, 1));
        assert_eq!(Bitmap::read(COUNT, &file[..]).unwrap(), Some(some()));
        assert!(Bitmap::read(COUNT + 8, &file[..]).is_err(), "it was too short");
        *file.last_mut().unwrap() |= 0x20;
        assert_eq!(Bitmap::read(COUNT, &file[..]).unwrap(), None, "page 77 of 77");
    }
}
