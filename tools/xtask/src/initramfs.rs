//! Initramfs of the lab and of the guests: a static busybox, modules in order, an init script.

use crate::cpio::Archive;
use crate::error::{AtPath, Result};
use crate::kernel::Kernel;
use crate::places::{is_fresh, set_fresh};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

const BUSYBOX: &str = "/bin/busybox";

/// Writes the initramfs to `output`, unless it is there already. `scripts` are names and contents, one is `init`; `programs` are files that
/// go to `bin`.
///
/// # Errors
/// An input cannot be read or the output not written.
pub(crate) fn build(
    kernel: &Kernel,
    scripts: &[(&str, &str)],
    programs: &[&Path],
    output: &Path,
) -> Result<()> {
    let busybox = fs::read(BUSYBOX).at(Path::new(BUSYBOX))?;
    let modules = kernel.modules.join(" ");
    let mut inputs = format!("{}\n{modules}\n{}\n{scripts:?}", kernel.version, busybox.len());
    let programs = programs
        .iter()
        .map(|path| Ok((path.file_name().unwrap_or_default().to_string_lossy(), fs::read(path).at(path)?)))
        .collect::<Result<Vec<_>>>()?;
    for (name, content) in &programs {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        inputs.push_str(&format!("\n{name} {:x}", hasher.finish()));
    }
    if is_fresh(output, &inputs) {
        return Ok(());
    }
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "etc", "mnt", "modules", "newroot", "proc", "root", "run", "sys", "tmp"] {
        archive.directory(dir);
    }
    // The kernel opens the console before init can mount /dev.
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    archive.file("bin/busybox", 0o755, &busybox);
    archive.link("bin/sh", "busybox");
    for (name, script) in scripts {
        archive.file(name, 0o755, script.as_bytes());
    }
    for (name, content) in &programs {
        archive.file(&format!("bin/{name}"), 0o755, content);
    }
    let mut order = String::new();
    for module in &kernel.modules {
        let path = kernel.dir.join("modules").join(module);
        archive.file(&format!("modules/{module}"), 0o644, &fs::read(&path).at(&path)?);
        order.push_str(module);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    fs::write(output, archive.finish()).at(output)?;
    set_fresh(output, &inputs)
}
