//! Which crate may use which (design decision 10): reads `cargo metadata` and compares it with the tables in [`rules`].

use crate::rules;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// One dependency of one workspace crate on another; development dependencies are left out, as they never ship.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// The crate that depends.
    pub user: String,
    /// The crate it uses.
    pub used: String,
}

/// The workspace's crates and the edges between them.
///
/// # Errors
/// `cargo metadata` cannot be run or says something unexpected.
pub fn read_workspace(root: &Path) -> Result<(Vec<String>, Vec<Edge>), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root)
        .output()
        .map_err(|e| format!("cannot run cargo metadata: {e}"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("cargo metadata: {e}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata without packages")?;
    let names: Vec<String> = packages.iter().filter_map(|p| p["name"].as_str().map(str::to_owned)).collect();
    let mut edges = Vec::new();
    for package in packages {
        let user = package["name"].as_str().unwrap_or_default();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            // Only a path dependency is ours: a crate of the registry may carry the same name.
            let ours = dependency["path"].is_string() && names.iter().any(|n| n == used);
            if ours && dependency["kind"].as_str() != Some("dev") {
                edges.push(Edge { user: user.to_owned(), used: used.to_owned() });
            }
        }
    }
    Ok((names, edges))
}

/// What `names` and `edges` break, one line each.
pub fn check(names: &[String], edges: &[Edge]) -> Vec<String> {
    let layer = |name: &str| rules::LAYERS.iter().find(|(n, _)| *n == name).map(|(_, l)| *l);
    let mut faults: Vec<String> = names
        .iter()
        .filter(|name| layer(name).is_none())
        .map(|name| format!("crate {name} has no layer: add it to tools/tidy/src/rules.rs"))
        .collect();
    for Edge { user, used } in edges {
        if let (Some(own), Some(other)) = (layer(user), layer(used))
            && other > own
        {
            faults.push(format!("{user} (layer {own}) uses {used} (layer {other})"));
        }
        for (_, _, why) in rules::FORBIDDEN.iter().filter(|(a, b, _)| a == user && b == used) {
            faults.push(format!("{user} uses {used}: {why}"));
        }
        for (_, allowed) in rules::CLOSED.iter().filter(|(name, _)| name == user) {
            if !allowed.contains(&used.as_str()) {
                faults.push(format!("{user} uses {used}, but may use only {}", allowed.join(", ")));
            }
        }
    }
    faults
}
