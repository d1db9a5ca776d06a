//! Addresses to functions, files and lines, inlined functions included.

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::path::PathBuf;
use std::rc::Rc;

use blazesym::Pid;
use blazesym::symbolize::source::{Process, Source};
use blazesym::symbolize::{CodeInfo, Input, Symbolized, Symbolizer};

use crate::Error;

/// One function at an address. An address inside inlined functions has several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Demangled name.
    pub function: Option<String>,
    /// Source file, as the debug information names it.
    pub file: Option<String>,
    /// Line in that file, from 1.
    pub line: Option<u32>,
    /// The object file.
    pub module: Option<String>,
    /// Offset of the address in the object file.
    pub offset: Option<u64>,
    /// Whether the compiler inlined this function into the next location's.
    pub inlined: bool,
}

/// Resolves addresses of this process. Keeps what it has read of object files.
pub struct Symbols {
    symbolizer: Symbolizer,
    known: HashMap<u64, Rc<[Location]>>,
}

impl Symbols {
    /// Nothing read yet.
    pub fn new() -> Self {
        Symbols {
            symbolizer: Symbolizer::new(),
            known: HashMap::new(),
        }
    }

    /// The functions at each address, innermost first; at least one entry for each address. Of the modules
    /// that `exported_only` names, debug information is not read (a language runtime's takes long), and
    /// only exported functions are named.
    pub fn resolve(
        &mut self,
        addresses: &[u64],
        exported_only: impl Fn(&str) -> bool,
    ) -> Result<Vec<Rc<[Location]>>, Error> {
        let mut unknown = Vec::new();
        for address in addresses.iter().copied() {
            if self.known.contains_key(&address) {
                continue;
            }
            let exported = exported_at(address);
            if exported.module.as_deref().is_some_and(&exported_only) {
                self.known.insert(address, Rc::new([exported]));
            } else {
                unknown.push(address);
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        if !unknown.is_empty() {
            let found = self.symbolize(&unknown, true)?;
            let linked = self.symbolize(&unknown, false)?;
            let locations: Vec<Rc<[Location]>> = unknown
                .iter()
                .zip(found.iter().zip(&linked))
                .map(|(address, (symbol, linked))| locations(*address, symbol, linked))
                .collect();
            drop((found, linked));
            self.known.extend(unknown.into_iter().zip(locations));
        }
        Ok(addresses.iter().map(|address| self.known[address].clone()).collect())
    }
}

impl Symbols {
    fn symbolize(&self, addresses: &[u64], debug_info: bool) -> Result<Vec<Symbolized<'_>>, Error> {
        let mut process = Process::new(Pid::Slf);
        process.map_files = false;
        process.perf_map = false;
        process.debug_syms = debug_info;
        self.symbolizer
            .symbolize(&Source::Process(process), Input::AbsAddr(addresses))
            .map_err(|why| Error::Symbols(why.to_string()))
    }
}

impl Default for Symbols {
    fn default() -> Self {
        Self::new()
    }
}

fn locations(address: u64, symbol: &Symbolized<'_>, linked: &Symbolized<'_>) -> Rc<[Location]> {
    let Location { module, offset, .. } = exported_at(address);
    let place = |name: &str, info: Option<&CodeInfo<'_>>, inlined| Location {
        function: Some(name.to_owned()),
        file: info.map(|info| info.to_path().to_string_lossy().into_owned()),
        line: info.and_then(|info| info.line),
        module: module.clone(),
        offset,
        inlined,
    };
    match symbol {
        Symbolized::Sym(symbol) => {
            // Sparse debug information (line tables only) has names without their namespaces; the
            // linker's symbols have them.
            let name = match linked {
                Symbolized::Sym(linked) if linked.name.contains("::") && !symbol.name.contains("::") => &linked.name,
                _ => &symbol.name,
            };
            let inlined = symbol.inlined.iter().rev();
            inlined
                .map(|function| place(&function.name, function.code_info.as_ref(), true))
                .chain([place(name, symbol.code_info.as_deref(), false)])
                .collect()
        }
        Symbolized::Unknown(_) => Rc::new([Location {
            module,
            offset,
            ..Location::default()
        }]),
    }
}

/// What the loader knows of an address: the object file, the offset in it, and the exported function.
fn exported_at(address: u64) -> Location {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: dladdr takes any address, and fills `info` when it returns non-zero.
    if unsafe { libc::dladdr(address as *const _, info.as_mut_ptr()) } == 0 {
        return Location::default();
    }
    // SAFETY: filled, see above.
    let info = unsafe { info.assume_init() };
    let text = |name: *const c_char| {
        // SAFETY: the loader's string, alive as long as the object is loaded.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    };
    // glibc names the main program as it was started, which need not be a path.
    let module = text(info.dli_fname).map(|name| match name.contains('/') {
        true => name,
        false => std::env::current_exe()
            .unwrap_or(PathBuf::from(&*name))
            .to_string_lossy()
            .into_owned(),
    });
    Location {
        function: text(info.dli_sname),
        module,
        offset: Some(address - info.dli_fbase as u64),
        ..Location::default()
    }
}
