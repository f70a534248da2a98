//! Programs of crates.io that tasks need: compiled once into `target/tools`, unless they are installed already.

use crate::error::Result;
use crate::places::Places;
use crate::step::{cargo, quiet, step};
use std::path::PathBuf;
use std::process::Command;

/// A subcommand of cargo.
#[derive(Debug)]
pub(crate) struct Tool {
    /// Crate and program.
    pub(crate) name: &'static str,
    /// What is installed; another version that is there already will do.
    pub(crate) version: &'static str,
    /// More arguments of `cargo install`.
    pub(crate) options: &'static [&'static str],
}

impl Tool {
    /// The program, installed if it was missing.
    ///
    /// # Errors
    /// It cannot be fetched or compiled.
    pub(crate) fn find(&self, places: &Places) -> Result<PathBuf> {
        if quiet(Command::new(self.name).arg("--version")).is_ok() {
            return Ok(self.name.into());
        }
        let dir = places.target.join("tools").join(format!("{}-{}", self.name, self.version));
        let program = dir.join("bin").join(self.name);
        if program.exists() {
            return Ok(program);
        }
        step(&format!("installing {} {}", self.name, self.version), || {
            let mut install = cargo();
            // A debug build: it runs for seconds, an optimised one would compile for minutes more.
            install.args(["install", "--quiet", "--locked", "--debug", "--version", self.version, self.name]);
            install.args(self.options).arg("--root").arg(&dir).env("CARGO_PROFILE_DEV_DEBUG", "0");
            // What it is compiled of is of no use afterwards: it goes to a temporary directory.
            quiet(install.env_remove("CARGO_TARGET_DIR"))
        })?;
        Ok(program)
    }
}
