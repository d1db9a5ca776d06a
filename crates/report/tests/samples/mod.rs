//! Reports that the snapshot tests share.

#![allow(dead_code, reason = "each test binary uses its own part")]

use leaktight_report::{Certainty, Control, Environment, Finding, Frame, Kind, Report, Severity, Verdict, sentence};

/// A clean report; the others start from it.
pub fn clean() -> Report {
    Report {
        subject: r#"zoo.sum(b"abc")"#.into(),
        verdict: Verdict::Clean,
        reason: "no leak with a period up to 512 calls".into(),
        findings: vec![],
        calls: 2_560,
        period: 512,
        objects: 21_377,
        seconds: 0.4,
        looks: vec![],
        control: Control {
            planted: 3,
            caught: 3,
            missed: vec![],
        },
        blind_spots: vec![],
        not_done: vec![],
        kept: vec![],
        remarks: vec![],
        environment: Environment {
            runtime: "CPython 3.11.7".into(),
            libc: "glibc 2.36".into(),
            platform: "x86_64-linux".into(),
            leaktight: "0.1.0".into(),
        },
    }
}

/// A leak report whose reason is the message of its first finding.
pub fn leak(subject: &str, findings: Vec<Finding>) -> Report {
    Report {
        subject: subject.into(),
        verdict: Verdict::Leak,
        reason: findings
            .first()
            .map_or(String::new(), |finding| finding.message.clone()),
        findings,
        calls: 96,
        period: 0,
        objects: 21_377,
        seconds: 0.03,
        ..clean()
    }
}

/// One lost block of 48 bytes in every call.
pub fn lost_copy() -> Finding {
    with_message(Finding {
        kind: Kind::Memory,
        certainty: Certainty::Lost,
        severity: Severity::Error,
        blocks_per_call: 1.0,
        bytes_per_call: 48.0,
        block_size: Some(48),
        every: Some(1),
        allocator: "malloc".into(),
        via: Some("strdup".into()),
        type_name: None,
        objects_per_call: None,
        examples: Vec::new(),
        holder: None,
        in_cycle: false,
        earlier_owner: false,
        references: None,
        also: Vec::new(),
        one_of: false,
        kept_by: Vec::new(),
        stack_note: None,
        buffer_export: false,
        path: Vec::new(),
        stack: vec![
            native("copy_field", 42, "char *copy = strdup(field);"),
            native("parse_header", 61, ""),
            python("<module>", "<statement>", 1),
        ],
        message: String::new(),
    })
}

/// A lost `dict` in every 10th call.
pub fn lost_dict() -> Finding {
    with_message(Finding {
        blocks_per_call: 0.1,
        bytes_per_call: 23.2,
        block_size: Some(232),
        every: Some(10),
        allocator: "PyObject_Malloc".into(),
        via: Some("PyDict_New".into()),
        type_name: Some("dict".into()),
        objects_per_call: Some(0.1),
        examples: Vec::new(),
        stack: vec![
            Frame {
                inlined: true,
                ..native("make_options", 80, "PyObject *d = PyDict_New();")
            },
            native("zoo_configure", 97, "opts = make_options(self);"),
            python("configure", "tests/app.py", 12),
        ],
        ..lost_copy()
    })
}

/// Two blocks per call that a static table still holds.
pub fn growing_registry() -> Finding {
    with_message(Finding {
        certainty: Certainty::Growing,
        severity: Severity::Warning,
        blocks_per_call: 2.0,
        bytes_per_call: 96.0,
        block_size: None,
        via: None,
        holder: Some("static data of zoo.so (`registry`)".into()),
        references: None,
        stack: vec![
            Frame {
                module: Some("/opt/app/lib/zoo.cpython-311-x86_64-linux-gnu.so".into()),
                offset: Some(0x1f40),
                ..Frame::default()
            },
            Frame {
                function: Some("std::_Hashtable<std::string, Entry, std::hash<std::string>>::emplace".into()),
                ..native("", 203, "registry.emplace(name, Entry{id, owner, flags, nullptr});")
            },
            python("<module>", "<statement>", 1),
        ],
        ..lost_copy()
    })
}

/// A vector that gets longer: bytes without new blocks.
pub fn growing_vector() -> Finding {
    with_message(Finding {
        certainty: Certainty::Growing,
        blocks_per_call: 0.0,
        bytes_per_call: 16.0,
        block_size: Some(4096),
        allocator: "realloc".into(),
        via: None,
        ..lost_copy()
    })
}

/// A finding of a kind that counts no memory.
pub fn counted(kind: Kind, certainty: Certainty, allocator: &str, type_name: &str) -> Finding {
    with_message(Finding {
        kind,
        certainty,
        bytes_per_call: 0.0,
        block_size: None,
        allocator: allocator.into(),
        via: None,
        type_name: Some(type_name.to_owned()).filter(|name| !name.is_empty()),
        objects_per_call: None,
        examples: Vec::new(),
        stack: vec![],
        ..lost_copy()
    })
}

pub fn with_message(finding: Finding) -> Finding {
    Finding {
        message: sentence(&finding),
        ..finding
    }
}

fn native(function: &str, line: u32, source: &str) -> Frame {
    Frame {
        function: Some(function.into()),
        file: Some("tests/zoo/c/zoo.c".into()),
        line: Some(line),
        module: Some("zoo.so".into()),
        source: Some(source.to_owned()).filter(|source| !source.is_empty()),
        ..Frame::default()
    }
}

fn python(function: &str, file: &str, line: u32) -> Frame {
    Frame {
        function: Some(function.into()),
        file: Some(file.into()),
        line: Some(line),
        python: true,
        ..Frame::default()
    }
}
