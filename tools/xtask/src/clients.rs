//! The REST API's clients for the guest tests: `tools/clients` in Rust, and Python's from PyPI in a virtual environment of their own.

use crate::error::{AtPath, Result};
use crate::packages;
use crate::places::{Places, is_fresh, set_fresh};
use crate::step::{cargo, loud, quiet, step};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter of the Debian package, because the environment's path to it must be valid in the lab too.
const PYTHON: &str = "/usr/bin/python3";

/// Builds and installs what is missing; returns the environment that the tests read.
///
/// # Errors
/// Something cannot be fetched, built or generated.
pub(crate) fn prepare(places: &Places) -> Result<Vec<(String, String)>> {
    packages::install(&["curl", "python3", "python3-venv"])?;
    let scripts = places.root.join("tools/clients/python");
    let python = environment(places, &scripts)?;
    generate(places, &scripts, &python)?;
    step("building the REST clients", || {
        let mut build = cargo();
        build.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(manifest(places));
        // What both workspaces need in the same shape is built once.
        loud(build.env("CARGO_TARGET_DIR", &places.target).current_dir(&places.root))
    })?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Ok(vec![
        ("VMTEST_CLIENTS".to_owned(), text(&places.dev_binary("clients"))),
        ("VMTEST_PYTHON".to_owned(), text(&python)),
        ("VMTEST_PYTHON_SCRIPTS".to_owned(), text(&scripts)),
        ("VMTEST_OPENAPI".to_owned(), text(&document(places))),
    ])
}

/// The clients are a workspace of their own.
pub(crate) fn manifest(places: &Places) -> PathBuf {
    places.root.join("tools/clients/Cargo.toml")
}

fn document(places: &Places) -> PathBuf {
    places.root.join("docs/openapi.json")
}

/// The virtual environment, with exactly what `requirements.txt` names.
fn environment(places: &Places, scripts: &Path) -> Result<PathBuf> {
    let dir = places.target.join("clients-python");
    let list = scripts.join("requirements.txt");
    let requirements = fs::read_to_string(&list).at(&list)?;
    if is_fresh(&dir, &requirements) {
        return Ok(dir);
    }
    step("installing Python's REST clients", || {
        quiet(Command::new(PYTHON).args(["-m", "venv", "--clear"]).arg(&dir))?;
        quiet(Command::new(dir.join("bin/pip")).args(["install", "--quiet", "--requirement"]).arg(&list))?;
        set_fresh(&dir, &requirements)
    })?;
    Ok(dir)
}

/// The client that openapi-python-client makes of the document, beside its environment's packages.
fn generate(places: &Places, scripts: &Path, python: &Path) -> Result<()> {
    let document = document(places);
    let inputs = fs::read_to_string(&document).at(&document)?;
    let package = python.join("generated/vmm_client");
    if is_fresh(&package, &inputs) {
        return Ok(());
    }
    step("generating a Python client", || {
        let mut generator = Command::new(python.join("bin/openapi-python-client"));
        generator
            .args(["generate", "--meta", "none", "--overwrite", "--fail-on-warning", "--path"])
            .arg(&document);
        generator.arg("--config").arg(scripts.join("openapi-python-client.yml"));
        quiet(generator.arg("--output-path").arg(&package))?;
        set_fresh(&package, &inputs)
    })
}
