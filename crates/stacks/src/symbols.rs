//! Addresses to functions, files and lines, inlined functions included.

use std::collections::HashMap;
use std::ffi::CStr;
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

    /// The functions at each address, innermost first; at least one entry for each address.
    pub fn resolve(&mut self, addresses: &[u64]) -> Result<Vec<Rc<[Location]>>, Error> {
        let mut unknown: Vec<u64> = addresses
            .iter()
            .copied()
            .filter(|at| !self.known.contains_key(at))
            .collect();
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
    let (module, offset) = object_of(address);
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

/// The object file around an address, and the address's offset in it.
fn object_of(address: u64) -> (Option<String>, Option<u64>) {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: dladdr takes any address, and fills `info` when it returns non-zero.
    if unsafe { libc::dladdr(address as *const _, info.as_mut_ptr()) } == 0 {
        return (None, None);
    }
    // SAFETY: filled, see above.
    let info = unsafe { info.assume_init() };
    let offset = address - info.dli_fbase as u64;
    if info.dli_fname.is_null() {
        return (None, Some(offset));
    }
    // SAFETY: the loader's string, alive as long as the object is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy();
    // glibc names the main program as it was started, which need not be a path.
    let name = match name.contains('/') {
        true => name.into_owned(),
        false => std::env::current_exe()
            .unwrap_or(PathBuf::from(&*name))
            .to_string_lossy()
            .into_owned(),
    };
    (Some(name), Some(offset))
}
