//! The README shows what the example runs.

#[test]
fn the_readme_shows_the_quickstart_example_as_it_is() {
    let readme = include_str!("../README.md");
    let example = include_str!("../examples/quickstart.rs");
    // The example's first paragraph is its documentation.
    let (_, code) = example.split_once("\n\n").expect("the example has documentation");
    assert!(readme.contains(code.trim()), "README.md and examples/quickstart.rs differ");
}
