//! What is left behind beside memory.

use std::fs::File;

#[test]
fn a_forgotten_descriptor_is_found_where_it_was_opened() {
    let report = leaktight::check(|| std::mem::forget(File::open("/dev/null")));
    assert_eq!(report.verdict, leaktight::Verdict::Leak, "{report}");
    let innermost = report.findings[0].stack.first().and_then(|frame| frame.file.as_deref());
    assert!(
        innermost.is_some_and(|file| file.ends_with("descriptors.rs") && file.contains("tests")),
        "{report}"
    );
}
