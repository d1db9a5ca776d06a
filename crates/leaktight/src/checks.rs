//! What a check looks at.

/// What a check looks at, beside the positive control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Blocks of memory, and memory mappings.
    pub memory: bool,
    /// References to objects of the runtime that live on, taken and not given back, or released too often.
    pub references: bool,
    /// File descriptors left open.
    pub fds: bool,
    /// Threads left running, or ended and not joined.
    pub threads: bool,
    /// Child processes left running, or ended and not waited for.
    pub children: bool,
    /// Names left in `$TMPDIR`, `/tmp` or `/var/tmp`; shared memory, semaphores and message queues of POSIX and of
    /// System V.
    pub files: bool,
    /// Signal handlers that were changed: a remark, no finding.
    pub signals: bool,
    /// Objects that the runtime's garbage collector cannot free; and a remark on those that only it frees.
    pub garbage: bool,
}

impl Checks {
    /// The names, in the order of the fields.
    pub const NAMES: [&str; 8] = [
        "memory",
        "references",
        "fds",
        "threads",
        "children",
        "files",
        "signals",
        "garbage",
    ];

    /// Everything.
    pub const ALL: Checks = Checks {
        memory: true,
        references: true,
        fds: true,
        threads: true,
        children: true,
        files: true,
        signals: true,
        garbage: true,
    };

    pub(crate) const REFERENCES: Checks = Checks {
        references: true,
        ..Checks::NOTHING
    };

    const NOTHING: Checks = Checks {
        memory: false,
        references: false,
        fds: false,
        threads: false,
        children: false,
        files: false,
        signals: false,
        garbage: false,
    };

    /// Whether anything is looked at that is left behind beside memory and references.
    pub(crate) fn resources(self) -> bool {
        self.fds || self.threads || self.children || self.files
    }

    /// Only what is named.
    ///
    /// # Errors
    ///
    /// The first name that is none of [`Checks::NAMES`].
    pub fn only<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Checks, &'a str> {
        let mut checks = Checks::NOTHING;
        for name in names {
            *match name {
                "memory" => &mut checks.memory,
                "references" => &mut checks.references,
                "fds" => &mut checks.fds,
                "threads" => &mut checks.threads,
                "children" => &mut checks.children,
                "files" => &mut checks.files,
                "signals" => &mut checks.signals,
                "garbage" => &mut checks.garbage,
                unknown => return Err(unknown),
            } = true;
        }
        Ok(checks)
    }
}

impl Checks {
    /// The names of what is looked at, unless that is everything.
    pub(crate) fn some(self) -> Option<String> {
        let on = [
            self.memory,
            self.references,
            self.fds,
            self.threads,
            self.children,
            self.files,
            self.signals,
            self.garbage,
        ];
        let names = Checks::NAMES
            .into_iter()
            .zip(on)
            .filter(|(_, on)| *on)
            .map(|(name, _)| name);
        (self != Checks::ALL).then(|| names.collect::<Vec<_>>().join(", "))
    }
}

impl Default for Checks {
    fn default() -> Self {
        Checks::ALL
    }
}
