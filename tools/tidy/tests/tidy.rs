//! The tree itself against the house rules.

#[test]
fn sources_are_tidy() {
    let root = tidy::workspace_root();
    let files = tidy::rust_files(&root).unwrap();
    assert!(!files.is_empty());
    let faults: Vec<String> = files
        .iter()
        .flat_map(|path| tidy::source::check(path, &std::fs::read_to_string(root.join(path)).unwrap()))
        .collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn devices_keep_to_their_folders() {
    let root = tidy::workspace_root();
    let devices = tidy::devices::names(&root).unwrap();
    assert!(devices.iter().any(|name| name == "blk"));
    let text = |path: &std::path::PathBuf| std::fs::read_to_string(root.join(path)).unwrap();
    let files: Vec<_> =
        tidy::rust_files(&root).unwrap().into_iter().map(|path| (path.clone(), text(&path))).collect();
    let faults = tidy::devices::check(&files, &devices);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn crates_respect_their_layers() {
    let (names, edges) = tidy::layers::read_workspace(&tidy::workspace_root()).unwrap();
    assert!(names.iter().any(|n| n == "tidy"));
    let faults = tidy::layers::check(&names, &edges);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// `[lints]` cannot be inherited from another workspace, so the clients' has a copy.
#[test]
fn the_clients_workspace_has_the_same_lints() {
    let manifest = |path: &str| std::fs::read_to_string(tidy::workspace_root().join(path)).unwrap();
    let (ours, theirs) = (manifest("Cargo.toml"), manifest("tools/clients/Cargo.toml"));
    for tool in ["rust", "clippy"] {
        let table = |text: &str, head: &str| -> Vec<String> {
            let lines = text.lines().skip_while(|line| *line != head).skip(1);
            lines.take_while(|line| line.contains('=')).map(str::to_owned).collect()
        };
        let expected = table(&ours, &format!("[workspace.lints.{tool}]"));
        assert!(!expected.is_empty());
        assert_eq!(table(&theirs, &format!("[lints.{tool}]")), expected, "{tool}");
    }
}
