//! What a person reads, word for word.

mod samples;

use insta::assert_snapshot;
use leaktight_report::{
    Certainty, Control, Finding, Frame, Kept, Kind, References, Report, Severity, Step, Style, Verdict,
};
use samples::{clean, counted, growing_registry, growing_vector, leak, lost_copy, lost_dict, with_message};

/// The text between two bars, so that a snapshot shows spaces at the ends.
fn at_width(report: &Report, width: usize) -> String {
    let text = report.text(Style { color: false, width });
    assert!(!text.contains('\x1b'));
    for line in text.lines() {
        assert_eq!(line, line.trim_end(), "spaces at the end of a line");
        assert!(line.chars().count() <= width, "wider than {width} columns: {line}");
    }
    text
}

fn header_leak() -> Report {
    leak(r#"zoo.parse_header(b"x: y")"#, vec![lost_copy()])
}

#[test]
fn clean_says_how_far_it_looked() {
    assert_snapshot!(at_width(&clean(), 100));
}

#[test]
fn leak_names_the_line() {
    assert_snapshot!(at_width(&header_leak(), 100));
}

#[test]
fn display_is_plain_text_at_100_columns() {
    assert_eq!(header_leak().to_string(), at_width(&header_leak(), 100));
}

#[test]
fn leak_at_60_columns() {
    assert_snapshot!(at_width(&header_leak(), 60));
}

#[test]
fn several_findings() {
    let report = Report {
        period: 512,
        objects: 21_377,
        blind_spots: vec!["memory that pyarrow takes from its own jemalloc; 12 MiB are mapped there".into()],
        remarks: vec!["tracemalloc was on, so its own blocks were left out".into()],
        ..leak(
            "zoo.everything()",
            vec![lost_dict(), growing_registry(), growing_vector()],
        )
    };
    assert_snapshot!("several_findings_100", at_width(&report, 100));
    assert_snapshot!("several_findings_40", at_width(&report, 40));
}

#[test]
fn kinds_that_count_no_memory() {
    let kinds = vec![
        with_message(Finding {
            examples: vec!["the `str` 'timeout' (argument 1)".into()],
            references: Some(References {
                calls: 512,
                before: 412,
                after: 924,
                visible: 0,
                words: 2,
                balanced: None,
            }),
            ..counted(Kind::Reference, Certainty::Lost, "", "str")
        }),
        counted(Kind::Reference, Certainty::Lost, "", "NoneType"),
        counted(Kind::OverRelease, Certainty::Growing, "", "NoneType"),
        counted(Kind::Fd, Certainty::Growing, "open", ""),
        counted(Kind::Thread, Certainty::Growing, "pthread_create", ""),
        counted(Kind::Child, Certainty::Growing, "", ""),
        counted(Kind::File, Certainty::Growing, "mkstemp", ""),
        counted(Kind::Ipc, Certainty::Growing, "", ""),
        counted(Kind::Garbage, Certainty::Growing, "", "zoo.Node"),
    ];
    assert_snapshot!(at_width(&leak("zoo.all_kinds()", kinds), 100));
}

#[test]
fn the_line_of_an_object_is_where_it_was_made() {
    let sure = Finding {
        type_name: Some("zoo.Node".into()),
        ..lost_dict()
    };
    let unsure = Finding {
        earlier_owner: true,
        ..lost_dict()
    };
    let nameless = Finding {
        type_name: None,
        earlier_owner: true,
        ..lost_dict()
    };
    let report = leak("zoo.configure()", vec![with_message(sure), unsure, nameless]);
    assert_snapshot!(at_width(&report, 100));
}

#[test]
fn warnings_alone_cost_nothing() {
    let warning = with_message(Finding {
        severity: Severity::Warning,
        examples: vec!["the type `zoo_refs.Error`".into()],
        references: Some(References {
            calls: 141,
            before: -1_000_000_157,
            after: 1_000_000_298,
            visible: 0,
            words: -2,
            balanced: None,
        }),
        ..counted(Kind::Reference, Certainty::Lost, "", "type")
    });
    let report = leak("zoo_refs.leak_exception_type()", vec![warning]);
    assert_snapshot!(at_width(&report, 100));
    let colored = report.text(Style {
        color: true,
        width: 100,
    });
    assert!(
        colored.starts_with("\x1b[1m\x1b[33mLEAK (warnings only)\x1b[0m  zoo_refs"),
        "{colored:?}"
    );
}

#[test]
fn frames_without_debug_information_say_what_to_do() {
    let mut bare = lost_copy();
    for (frame, offset) in bare.stack.iter_mut().take(2).zip([0x1234, 0x1300]) {
        *frame = Frame {
            module: Some("/opt/app/lib/parser.so".into()),
            offset: Some(offset),
            ..Frame::default()
        };
    }
    assert_snapshot!(at_width(&leak("parser.parse(text)", vec![bare]), 100));
}

#[test]
fn bounded_tells_a_cache_from_a_leak() {
    let report = Report {
        verdict: Verdict::Bounded,
        reason: "memory grew by 64 blocks, then stopped growing after 70 calls: a cache".into(),
        ..clean()
    };
    assert_snapshot!(at_width(&report, 100));
}

#[test]
fn indeterminate_names_the_holder() {
    let report = Report {
        verdict: Verdict::Indeterminate,
        period: 0,
        objects: 0,
        calls: 1_024,
        seconds: 60.2,
        ..leak("zoo.register(name)", vec![growing_registry()])
    };
    assert_snapshot!(at_width(&report, 100));
}

#[test]
fn failed_control_is_loud_and_never_clean() {
    let report = Report {
        control: Control {
            planted: 3,
            caught: 2,
            missed: vec!["a PyMem block".into()],
        },
        ..clean()
    };
    assert_snapshot!("failed_control", at_width(&report, 100));
    let report = Report {
        control: Control::default(),
        verdict: Verdict::Bounded,
        ..clean()
    };
    assert_snapshot!("missing_control", at_width(&report, 100));
}

#[test]
fn message_that_says_more_is_shown() {
    let finding = Finding {
        message: "the error path forgets to free `copy`".into(),
        ..lost_copy()
    };
    let report = Report {
        reason: "one place leaks".into(),
        ..leak("f()", vec![finding])
    };
    assert_snapshot!(at_width(&report, 100));
}

#[test]
fn long_lists_are_cut_and_counted() {
    let frame = lost_copy().stack[0].clone();
    let deep = Finding {
        stack: vec![frame; 20],
        ..lost_copy()
    };
    let mut findings = vec![
        Finding {
            stack: vec![],
            ..lost_copy()
        };
        12
    ];
    findings[0] = deep;
    let report = leak("zoo.many()", findings);
    assert_snapshot!(at_width(&report, 80));
}

#[test]
fn colour() {
    let finding = growing_registry();
    let report = leak("zoo.register(name)", vec![finding, lost_copy()]);
    let text = report.text(Style {
        color: true,
        width: 100,
    });
    assert_snapshot!("colour", text.replace('\x1b', "␛"));

    let unchecked = Report {
        control: Control {
            planted: 3,
            ..Control::default()
        },
        ..clean()
    };
    let text = unchecked.text(Style { color: true, width: 60 });
    assert_snapshot!("colour_failed_control", text.replace('\x1b', "␛"));
}

#[test]
fn colour_changes_nothing_but_colour() {
    let report = leak("zoo.register(name)", vec![growing_registry(), lost_dict()]);
    for width in [20, 40, 77, 120] {
        let coloured = report.text(Style { color: true, width });
        assert_eq!(uncoloured(&coloured), report.text(Style { color: false, width }));
    }
}

#[test]
fn references_are_told_with_who_took_them() {
    let references = |balanced| References {
        calls: 141,
        before: 5,
        after: 146,
        visible: 0,
        words: 0,
        balanced,
    };
    let sure = with_message(Finding {
        kind: Kind::Reference,
        blocks_per_call: 1.0,
        bytes_per_call: 0.0,
        block_size: None,
        allocator: String::new(),
        via: None,
        type_name: Some("str".into()),
        examples: vec!["the `str` 'timeout' (argument 1)".into()],
        references: Some(references(Some(2))),
        ..lost_copy()
    });
    let also = vec![sure.stack[..1].to_vec(), sure.stack[1..].to_vec()];
    let two = Finding {
        also: also.clone(),
        ..sure.clone()
    };
    let unsure = Finding {
        kind: Kind::OverRelease,
        one_of: true,
        also: vec![also[0].clone(); 5],
        references: Some(references(Some(1))),
        ..sure.clone()
    };
    let unknown = Finding {
        stack: Vec::new(),
        stack_note: Some("the debug registers are in use".into()),
        references: Some(references(None)),
        ..sure.clone()
    };
    assert_snapshot!(at_width(&leak("zoo.keep(KEY)", vec![sure, two, unsure, unknown]), 100));
}

#[test]
fn who_keeps_an_object_is_told_below_who_made_it() {
    let keeper = lost_copy().stack;
    let by_one = with_message(Finding {
        kept_by: vec![keeper.clone()],
        ..growing_registry()
    });
    let by_buffer = with_message(Finding {
        kept_by: vec![keeper.clone(), keeper],
        buffer_export: true,
        certainty: Certainty::Lost,
        type_name: Some("bytearray".into()),
        objects_per_call: Some(1.0),
        ..lost_copy()
    });
    assert_snapshot!(at_width(&leak("zoo.keep([1])", vec![by_one, by_buffer]), 100));
}

fn step(name: &str, what: &str) -> Step {
    Step {
        name: name.into(),
        what: what.into(),
    }
}

#[test]
fn the_whole_path_is_shown_where_it_says_more_than_the_holder() {
    let path = vec![
        step("module `app`", ""),
        step("`CACHE`", "a dict of 1,024 items"),
        step("the value of 'rows'", "a list of 3 items"),
        step("item 2", "a `str` object"),
    ];
    let deep = Finding {
        path: path.clone(),
        holder: Some("a list of 3 items (the value of 'rows' of `CACHE` of module `app`)".into()),
        ..growing_registry()
    };
    let flat = Finding {
        path: vec![
            step("variable `k`", "a list of 2 items"),
            step("item 1", "a `str` object"),
        ],
        holder: Some("a list of 2 items (variable `k`)".into()),
        ..growing_registry()
    };
    let kept = Kept {
        blocks: 1_024,
        bytes: 65_536,
        allocator: "PyObject_Malloc".into(),
        type_name: Some("dict".into()),
        path,
        stack: flat.stack.clone(),
    };
    let by_nobody_known = Kept {
        blocks: 1,
        type_name: None,
        path: vec![],
        stack: vec![],
        ..kept.clone()
    };
    let report = Report {
        kept: vec![kept, by_nobody_known],
        ..leak("app.fill()", vec![deep, flat])
    };
    assert_snapshot!(at_width(&report, 100));
}

#[test]
fn names_cannot_act_on_the_terminal() {
    let hostile = "\x1b[2J\x1b[1;32mCLEAN\x1b[0m\r\n\u{202e}naelc";
    let frame = Frame {
        function: Some(hostile.into()),
        file: Some(hostile.into()),
        source: Some(hostile.into()),
        ..Frame::default()
    };
    let finding = with_message(Finding {
        allocator: hostile.into(),
        via: Some(hostile.into()),
        type_name: Some(hostile.into()),
        holder: Some(hostile.into()),
        path: vec![step(hostile, hostile)],
        stack: vec![frame],
        ..lost_copy()
    });
    let report = Report {
        remarks: vec![hostile.into()],
        ..leak(hostile, vec![finding])
    };
    assert_snapshot!(at_width(&report, 100));
}

#[test]
fn wide_characters_keep_the_columns() {
    let mut finding = lost_copy();
    finding.stack[0].function = Some("複製する".into());
    let report = leak("動物園.解析(\"鍵: 値\")", vec![finding]);
    assert_snapshot!(report.text(Style {
        color: false,
        width: 80
    }));
}

/// Takes the escape sequences out, which all end in `m`.
fn uncoloured(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| {
        plain + part.split_once('m').map_or("", |(_, rest)| rest)
    })
}
