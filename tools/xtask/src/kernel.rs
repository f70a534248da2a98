//! A Debian kernel taken out of its package: the image, and the modules an initramfs loads, in the order they need.

use crate::bzimage;
use crate::error::{AtPath, Error, Result};
use crate::packages;
use crate::places::{Places, is_fresh, set_fresh};
use crate::step::{quiet, step};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An unpacked kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Holds `bzImage`, `vmlinux` if asked for, and `modules/`.
    pub(crate) dir: PathBuf,
    /// File names in `modules/`, dependencies first.
    pub(crate) modules: Vec<String>,
    /// Names the package's version.
    pub(crate) version: String,
}

impl Kernel {
    /// The kernel behind the metapackage `meta` with these `modules` (and what they depend on); `elf` asks for the vmlinux too.
    ///
    /// # Errors
    /// The package cannot be fetched or lacks something.
    pub(crate) fn prepare(places: &Places, meta: &str, modules: &[&str], elf: bool) -> Result<Self> {
        let package = packages::kernel_package(meta, &places.images.join("packages"))?;
        let version = package.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let dir = places.images.join(format!("kernel-{meta}"));
        let inputs = format!("{version}\n{}\n{elf}\n", modules.join(" "));
        if !is_fresh(&dir, &inputs) {
            step(&format!("unpacking {version}"), || {
                let whole = places.images.join("unpacked");
                packages::unpack(&package, &whole)?;
                collect(&whole, &dir, modules, elf)?;
                fs::remove_dir_all(&whole).at(&whole)?;
                set_fresh(&dir, &inputs)
            })?;
        }
        let order = dir.join("modules/order");
        let modules = fs::read_to_string(&order).at(&order)?.lines().map(str::to_owned).collect();
        Ok(Self { dir, modules, version })
    }

    /// The same kernel with only these of its modules, and what they depend on.
    ///
    /// # Errors
    /// A module cannot be read.
    pub(crate) fn with_modules(&self, wanted: &[&str]) -> Result<Self> {
        let paths: Vec<PathBuf> = self.modules.iter().map(|m| self.dir.join("modules").join(m)).collect();
        let available: HashMap<String, &PathBuf> = paths
            .iter()
            .filter_map(|path| Some((path.file_stem()?.to_string_lossy().into_owned(), path)))
            .collect();
        let mut order = Vec::new();
        for module in wanted {
            add_module(&plain(module), &available, &mut order)?;
        }
        let modules = order.iter().map(|module| format!("{module}.ko")).collect();
        Ok(Self { dir: self.dir.clone(), modules, version: self.version.clone() })
    }
}

fn collect(whole: &Path, dir: &Path, wanted: &[&str], elf: bool) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).at(dir)?;
    }
    let modules = dir.join("modules");
    fs::create_dir_all(&modules).at(&modules)?;
    let files = files_below(whole)?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let image = files
        .iter()
        .find(|path| name(path).starts_with("vmlinuz-"))
        .ok_or_else(|| Error::Content { path: whole.to_owned(), what: "no vmlinuz".to_owned() })?;
    let bytes = fs::read(image).at(image)?;
    if elf {
        let vmlinux =
            bzimage::extract_vmlinux(&bytes).map_err(|what| Error::Content { path: image.clone(), what })?;
        let path = dir.join("vmlinux");
        fs::write(&path, vmlinux).at(&path)?;
    }
    let path = dir.join("bzImage");
    fs::write(&path, bytes).at(&path)?;
    // Modules call each other by names in which '-' and '_' are the same.
    let available: HashMap<String, &PathBuf> = files
        .iter()
        .filter_map(|path| {
            let name = name(path);
            Some((plain(name.strip_suffix(".xz").unwrap_or(&name).strip_suffix(".ko")?), path))
        })
        .collect();
    let mut order = Vec::new();
    for module in wanted {
        add_module(&plain(module), &available, &mut order)?;
    }
    for module in &order {
        let source = unpacked(available[module])?;
        let path = modules.join(format!("{module}.ko"));
        fs::copy(&source, &path).at(&source)?;
    }
    let list: String = order.iter().map(|m| format!("{m}.ko\n")).collect();
    let path = modules.join("order");
    fs::write(&path, list).at(&path)
}

/// The module itself: newer kernels' packages hold them compressed, and busybox cannot load those.
fn unpacked(module: &Path) -> Result<PathBuf> {
    if module.extension().is_none_or(|e| e != "xz") {
        return Ok(module.to_owned());
    }
    quiet(Command::new("xz").args(["--decompress", "--keep", "--force"]).arg(module))?;
    Ok(module.with_extension(""))
}

fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// Puts a module behind everything it depends on. A name that is no module is built into the kernel.
fn add_module(name: &str, available: &HashMap<String, &PathBuf>, order: &mut Vec<String>) -> Result<()> {
    let Some(path) = available.get(name) else { return Ok(()) };
    if order.iter().any(|m| m == name) {
        return Ok(());
    }
    let path = unpacked(path)?;
    let bytes = fs::read(&path).at(&path)?;
    for dependency in dependencies(&bytes) {
        add_module(&plain(&dependency), available, order)?;
    }
    order.push(name.to_owned());
    Ok(())
}

/// The `depends=` entry of a module's `.modinfo` section, which is a list of NUL-terminated strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(begin) = module.windows(KEY.len()).position(|w| w == KEY) else { return Vec::new() };
    let value = module[begin + KEY.len()..].split(|b| *b == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).at(&dir)? {
            let entry = entry.at(&dir)?;
            let kind = entry.file_type().at(&dir)?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dependencies() {
        assert_eq!(dependencies(b"x\0license=GPL\0depends=a,b-c\0name=d\0"), ["a", "b-c"]);
        assert!(dependencies(b"x\0depends=\0name=d\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }
}
