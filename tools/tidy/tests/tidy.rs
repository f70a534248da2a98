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
fn crates_respect_their_layers() {
    let (names, edges) = tidy::layers::read_workspace(&tidy::workspace_root()).unwrap();
    assert!(names.iter().any(|n| n == "tidy"));
    let faults = tidy::layers::check(&names, &edges);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
