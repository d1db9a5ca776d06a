//! Each finding in one sentence.

mod samples;

use leaktight_report::{Certainty, Finding, Kind, sentence};
use samples::{counted, growing_registry, growing_vector, lost_copy, lost_dict};

#[test]
fn lost_blocks() {
    assert_eq!(
        sentence(&lost_copy()),
        "every call loses 1 block of 48 bytes: nothing points to it any more"
    );
    let two = Finding {
        blocks_per_call: 2.0,
        bytes_per_call: 96.0,
        ..lost_copy()
    };
    assert_eq!(
        sentence(&two),
        "every call loses 2 blocks of 48 bytes: nothing points to them any more"
    );
    assert_eq!(
        sentence(&Finding {
            block_size: None,
            ..two
        }),
        "every call loses 2 blocks, 96 bytes in all: nothing points to them any more"
    );
    let byte = Finding {
        block_size: Some(1),
        bytes_per_call: 1.0,
        ..lost_copy()
    };
    assert_eq!(
        sentence(&byte),
        "every call loses 1 block of 1 byte: nothing points to it any more"
    );
    let rare = Finding {
        every: Some(300),
        blocks_per_call: 1.0 / 300.0,
        bytes_per_call: 1_048_576.0 / 300.0,
        block_size: None,
        ..lost_copy()
    };
    assert_eq!(
        sentence(&rare),
        "every 300th call loses 1 block of 1,048,576 bytes: nothing points to it any more"
    );
    let uneven = Finding {
        every: None,
        blocks_per_call: 0.35,
        bytes_per_call: 16.8,
        block_size: None,
        ..lost_copy()
    };
    assert_eq!(
        sentence(&uneven),
        "on average 10 calls lose 3.5 blocks, 168 bytes in all: nothing points to them any more"
    );
}

#[test]
fn lost_objects() {
    assert_eq!(
        sentence(&lost_dict()),
        "every 10th call loses 1 `dict` (232 bytes): nothing points to it any more; a Py_DECREF is missing in what \
         received it"
    );
    let two = Finding {
        blocks_per_call: 0.2,
        bytes_per_call: 46.4,
        objects_per_call: Some(0.2),
        ..lost_dict()
    };
    assert_eq!(
        sentence(&two),
        "every 10th call loses 2 `dict` objects (232 bytes each): nothing points to them any more; a Py_DECREF is \
         missing in what received them"
    );
    assert_eq!(
        sentence(&Finding {
            block_size: None,
            bytes_per_call: 0.0,
            ..two
        }),
        "every 10th call loses 2 `dict` objects: nothing points to them any more; a Py_DECREF is missing in what \
         received them"
    );
}

#[test]
fn lost_cycles() {
    let cycle = Finding {
        in_cycle: true,
        ..lost_dict()
    };
    assert_eq!(
        sentence(&cycle),
        "every 10th call loses 1 `dict` (232 bytes): nothing points to it any more; a cycle that the types do not let \
         the garbage collector see"
    );
}

#[test]
fn rare_leaks_are_counted_over_enough_calls_to_be_whole() {
    let of = |kind, per_call| Finding {
        every: None,
        blocks_per_call: per_call,
        ..counted(kind, Certainty::Growing, "", "")
    };
    for (kind, per_call, text) in [
        (Kind::Fd, 1.4, "on average a call leaves 1.4 file descriptors open"),
        (Kind::Fd, 0.996, "on average a call leaves 1 file descriptor open"),
        (Kind::Thread, 0.5, "on average 10 calls leave 5 threads behind"),
        (
            Kind::Child,
            1.0 / 300.0,
            "on average 1,000 calls leave 3.3 child processes behind",
        ),
        (
            Kind::Memory,
            0.02,
            "memory grows by 2 blocks per 100 calls on average; what still holds them was not found",
        ),
        (Kind::Fd, 0.0, "on average a call leaves 0 file descriptors open"),
    ] {
        assert_eq!(sentence(&of(kind, per_call)), text);
    }
}

#[test]
fn growing_memory() {
    assert_eq!(
        sentence(&growing_registry()),
        "memory grows by 2 blocks, 96 bytes per call; \
         they are still held by static data of zoo.so (`registry`)"
    );
    assert_eq!(
        sentence(&Finding {
            certainty: Certainty::Growing,
            ..lost_dict()
        }),
        "memory grows by 1 `dict` (232 bytes) every 10th call; what still holds it was not found"
    );
    assert_eq!(
        sentence(&growing_vector()),
        "one block grows by 16 bytes per call; what still holds it was not found"
    );
    let held = Finding {
        holder: Some("a list".into()),
        every: None,
        ..growing_vector()
    };
    assert_eq!(
        sentence(&held),
        "one block grows by 16 bytes per call on average; it is still held by a list"
    );
    let several = Finding {
        block_size: None,
        ..held
    };
    assert_eq!(
        sentence(&several),
        "memory grows by 16 bytes per call on average, in few blocks that become larger; they are still held by a list"
    );
}

#[test]
fn references() {
    let lost = counted(Kind::Reference, Certainty::Lost, "", "int");
    assert_eq!(
        sentence(&lost),
        "every call adds 1 reference to an `int` object that nobody holds: a Py_DECREF is missing"
    );
    let known = Finding {
        examples: vec!["the `int` 1024 (argument 1)".into()],
        ..lost.clone()
    };
    assert_eq!(
        sentence(&known),
        "every call adds 1 reference to the `int` 1024 (argument 1) that nobody holds: a Py_DECREF is missing"
    );
    assert_eq!(
        sentence(&Finding {
            buffer_export: true,
            ..known
        }),
        "every call adds 1 reference to the `int` 1024 (argument 1) that nobody holds: a buffer of it is exported and \
         never released, a PyBuffer_Release is missing"
    );
    assert_eq!(
        sentence(&Finding {
            type_name: None,
            blocks_per_call: 2.0,
            ..lost
        }),
        "every call adds 2 references to objects that nobody holds: a Py_DECREF is missing"
    );
    assert_eq!(
        sentence(&counted(Kind::Reference, Certainty::Growing, "", "dict")),
        "every call adds 1 reference to a `dict` object; what still holds it was not found"
    );
    let negative = Finding {
        blocks_per_call: -1.0,
        ..counted(Kind::OverRelease, Certainty::Growing, "", "NoneType")
    };
    assert_eq!(
        sentence(&negative),
        "every call releases 1 reference to a `NoneType` object that it does not own: a Py_INCREF is missing, \
         and the object can be freed while in use"
    );
}

#[test]
fn resources() {
    let fd = counted(Kind::Fd, Certainty::Growing, "open", "");
    assert_eq!(sentence(&fd), "every call leaves 1 file descriptor open");
    assert_eq!(
        sentence(&Finding {
            every: Some(2),
            blocks_per_call: 1.0,
            holder: Some("f".into()),
            ..fd
        }),
        "every 2nd call leaves 2 file descriptors open; they are still held by f"
    );
    assert_eq!(
        sentence(&counted(Kind::Thread, Certainty::Growing, "pthread_create", "")),
        "every call leaves 1 thread behind"
    );
    assert_eq!(
        sentence(&counted(Kind::Garbage, Certainty::Growing, "", "zoo.Node")),
        "every call leaves 1 `zoo.Node` object that the garbage collector cannot free"
    );
    let shared = Finding {
        examples: vec!["shared memory /dev/shm/psm_1".into()],
        ..counted(Kind::Ipc, Certainty::Growing, "", "")
    };
    assert_eq!(
        sentence(&shared),
        "every call leaves 1 IPC object behind: shared memory /dev/shm/psm_1"
    );
    let named = |examples: &[&str]| Finding {
        examples: examples.iter().map(|name| (*name).into()).collect(),
        blocks_per_call: 2.0,
        ..counted(Kind::Child, Certainty::Growing, "", "")
    };
    assert_eq!(
        sentence(&named(&["`cat`, running"])),
        "every call leaves 2 child processes behind: `cat`, running"
    );
    assert_eq!(
        sentence(&named(&["`a`", "`b`"])),
        "every call leaves 2 child processes behind, such as `a`"
    );
}

#[test]
fn figures_that_are_none_do_not_panic() {
    let odd = Finding {
        blocks_per_call: f64::NAN,
        bytes_per_call: f64::INFINITY,
        block_size: None,
        every: Some(0),
        ..lost_copy()
    };
    assert_eq!(
        sentence(&odd),
        "on average a call loses ? blocks: nothing points to them any more"
    );
}

#[test]
fn an_object_of_several_blocks_counts_once() {
    let finding = Finding {
        blocks_per_call: 3.0,
        bytes_per_call: 312.0,
        block_size: None,
        every: Some(1),
        type_name: Some("dict".into()),
        objects_per_call: Some(1.0),
        ..lost_copy()
    };
    assert_eq!(
        sentence(&finding),
        "every call loses 1 `dict` (3 blocks, 312 bytes): nothing points to them any more; a Py_DECREF is missing in what \
         received it"
    );
}
