//! What is left behind beside memory.

use std::fs::File;

#[test]
fn a_forgotten_descriptor_is_found_where_it_was_opened() {
    let report = leaktight::check(|| std::mem::forget(File::open("/dev/null")));
    assert_eq!(report.verdict, leaktight::Verdict::Leak, "{report}");
    println!("{report}");
    assert!(report.findings[0].stack[0].function.is_some(), "{report}");
}
