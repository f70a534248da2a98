//! The device is the unit: outside of its folder a device is named where the catalogue lists it, and nowhere else.

use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};

use crate::rules;

const FOLDERS: &str = "crates/virtio-devices/src";

/// The names of the devices: the folders under [`FOLDERS`].
///
/// # Errors
/// The directory cannot be listed.
pub fn names(root: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join(FOLDERS))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// What files, each with its path and text, say of `devices` where they must not, and devices that the catalogue does not list once.
pub fn check(files: &[(PathBuf, String)], devices: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut listed = Vec::new();
    for (path, text) in files {
        for (line, name) in mentions(path, text).into_iter().filter(|(_, name)| devices.contains(name)) {
            if path == Path::new(rules::CATALOGUE) {
                listed.push(name);
            } else if !is_allowed(path, &name) {
                let at = format!("{}:{line}", path.display());
                faults.push(format!("{at}: device {name} is named outside of its folder and the catalogue"));
            }
        }
    }
    for device in devices {
        let count = listed.iter().filter(|name| *name == device).count();
        if count != 1 {
            faults
                .push(format!("{}: device {device} stands there {count} times, not once", rules::CATALOGUE));
        }
    }
    faults
}

fn is_allowed(path: &Path, device: &str) -> bool {
    path.starts_with(Path::new(FOLDERS).join(device))
        || rules::DEVICE_HANDLES
            .iter()
            .any(|(file, handle, _)| path == Path::new(file) && ["*", device].contains(handle))
}

/// Modules of `virtio-devices` in paths, with their lines. Tokens, not syntax trees: the catalogue is the argument of a macro.
fn mentions(path: &Path, text: &str) -> Vec<(usize, String)> {
    let root = if path.starts_with(FOLDERS) { "crate" } else { "virtio_devices" };
    let mut found = Vec::new();
    // A file that does not parse is another rule's business.
    if let Ok(tokens) = text.parse() {
        search(tokens, root, &mut found);
    }
    found
}

fn search(tokens: TokenStream, root: &str, found: &mut Vec<(usize, String)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (i, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => search(group.stream(), root, found),
            TokenTree::Ident(ident) if ident == root && is_colons(tokens.get(i + 1..i + 3)) => {
                match tokens.get(i + 3) {
                    Some(TokenTree::Group(several)) => found.extend(heads(several.stream())),
                    Some(TokenTree::Ident(name)) => found.push((name.span().start().line, name.to_string())),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

fn is_colons(tokens: Option<&[TokenTree]>) -> bool {
    let is_colon = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':');
    tokens.is_some_and(|tokens| tokens.len() == 2 && tokens.iter().all(is_colon))
}

/// The first word of each part of a list in braces.
fn heads(list: TokenStream) -> Vec<(usize, String)> {
    let mut is_head = true;
    let mut heads = Vec::new();
    for token in list {
        match token {
            TokenTree::Ident(name) if is_head => heads.push((name.span().start().line, name.to_string())),
            TokenTree::Punct(punct) if punct.as_char() == ',' => {
                is_head = true;
                continue;
            }
            _ => {}
        }
        is_head = false;
    }
    heads
}
