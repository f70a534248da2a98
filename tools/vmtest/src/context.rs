//! What one test owns: a directory, names nobody else uses, and the evidence to show if it fails.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

/// One test's surroundings.
pub struct Context {
    /// The test's own empty directory.
    pub dir: PathBuf,
    index: u8,
    images: PathBuf,
    vmm: PathBuf,
    number: Cell<u32>,
    evidence: RefCell<Vec<Evidence>>,
}

struct Evidence {
    title: String,
    text: Box<dyn Fn() -> String>,
}

impl Context {
    /// Surroundings in `dir` for the test with this `index` in the list; reads `VMTEST_IMAGES` and `VMTEST_VMM`.
    ///
    /// # Panics
    /// One of the two variables is missing.
    pub fn new(dir: PathBuf, index: u8) -> Self {
        let variable = |name: &str| {
            PathBuf::from(
                std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test`")),
            )
        };
        let (images, vmm) = (variable("VMTEST_IMAGES"), variable("VMTEST_VMM"));
        Self { dir, index, images, vmm, number: Cell::new(0), evidence: RefCell::default() }
    }

    /// The VMM's program.
    pub fn vmm(&self) -> &Path {
        &self.vmm
    }

    /// The address of the message bus that VMMs of this test find, if it starts one: see [`crate::bus`].
    pub fn bus_address(&self) -> String {
        format!("unix:path={}", self.path("bus").display())
    }

    /// An image made by `cargo xtask`: `bzImage`, `vmlinux`, `initramfs`, `debian.img`.
    pub fn image(&self, name: &str) -> PathBuf {
        self.images.join(name)
    }

    /// A path in the test's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A number not given before in this test.
    pub fn next_number(&self) -> u32 {
        self.number.replace(self.number.get() + 1)
    }

    /// A tap name that no other test uses.
    pub fn tap(&self) -> String {
        format!("vmtest{}", self.index)
    }

    /// Addresses of the host and the guest on the tap, in a /24 that no other test uses.
    pub fn addresses(&self) -> (String, String) {
        (format!("10.201.{}.1", self.index), format!("10.201.{}.2", self.index))
    }

    /// Registers something to show if the test fails.
    pub fn evidence(&self, title: String, text: impl Fn() -> String + 'static) {
        self.evidence.borrow_mut().push(Evidence { title, text: Box::new(text) });
    }

    /// The evidence as a report.
    pub fn report(&self) -> String {
        const LINES: usize = 80;
        let mut report = String::new();
        for Evidence { title, text } in self.evidence.borrow().iter() {
            let text = text();
            let lines: Vec<&str> = text.lines().collect();
            let skipped = lines.len().saturating_sub(LINES);
            report.push_str(&format!("---- {title}"));
            if skipped > 0 {
                report.push_str(&format!(" (without the first {skipped} lines)"));
            }
            report.push('\n');
            for line in &lines[skipped..] {
                report.push_str(line.trim_end());
                report.push('\n');
            }
        }
        report
    }
}

/// How often a test is to repeat something that `full` rounds of must be seen: a tenth, but in `cargo xtask soak`.
pub fn rounds(full: usize) -> usize {
    if std::env::var_os("VMTEST_THOROUGH").is_some() { full } else { full.div_ceil(10) }
}
