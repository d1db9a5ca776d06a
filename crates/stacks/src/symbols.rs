//! Addresses to functions, files and lines, inlined functions included.

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::path::PathBuf;
use std::rc::Rc;

use blazesym::Pid;
use blazesym::symbolize::source::{Process, Source};
use blazesym::symbolize::{CodeInfo, Input, Symbolized, Symbolizer};
use cpp_demangle::DemangleOptions;

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
            // It would take the name of a plain C function for a mangled type: `i` for `int`.
            symbolizer: Symbolizer::builder().enable_demangling(false).build(),
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
            match exported.module.as_deref() {
                // Its mapping may name a file that cannot be read, such as that of shared memory.
                None => {
                    let function = Some(outside_of_modules(address).to_owned());
                    let location = Location { function, ..exported };
                    self.known.insert(address, Rc::new([location]));
                }
                Some(module) if exported_only(module) => {
                    self.known.insert(address, Rc::new([exported]));
                }
                Some(_) => unknown.push(address),
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
    let place = |name: String, info: Option<&CodeInfo<'_>>, inlined| Location {
        function: Some(name),
        file: info.map(|info| info.to_path().to_string_lossy().into_owned()),
        line: info.and_then(|info| info.line),
        module: module.clone(),
        offset,
        inlined,
    };
    match symbol {
        Symbolized::Sym(symbol) => {
            // Sparse debug information (line tables only) has names without their namespaces, and that of a lambda
            // only `operator()`; the linker's symbols have them.
            let mut name = in_full(&symbol.name);
            if let Symbolized::Sym(linked) = linked
                && !name.contains("::")
            {
                let linked = in_full(&linked.name);
                name = if linked.contains("::") { linked } else { name };
            }
            let inlined = symbol.inlined.iter().rev();
            inlined
                .map(|function| place(in_full(&function.name), function.code_info.as_ref(), true))
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

/// What to call code that no object file holds: what a just-in-time compiler has made, or a module that is gone.
fn outside_of_modules(address: u64) -> &'static str {
    const PAGE: u64 = 4096;
    let mut resident = 0;
    // SAFETY: asks for one page, of which it writes one byte; it fails where nothing is mapped (mincore(2)).
    match unsafe { libc::mincore((address & !(PAGE - 1)) as *mut _, 1, &raw mut resident) } {
        0 => "<code made at run time>",
        _ => "<code that was unloaded>",
    }
}

/// Whether a name was mangled by a compiler; the names of C, such as `i`, may look like parts of mangled ones.
fn is_mangled(name: &str) -> bool {
    ["_Z", "__Z", "_R"].iter().any(|start| name.starts_with(start))
}

/// The name as it stands in the source, without the hash of Rust.
fn in_full(name: &str) -> String {
    demangled(name, &DemangleOptions::new())
}

/// The same without the parameters of C++.
fn in_short(name: &str) -> String {
    demangled(name, &DemangleOptions::new().no_params().no_return_type())
}

fn demangled(name: &str, options: &DemangleOptions) -> String {
    if !is_mangled(name) {
        return name.to_owned();
    }
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return format!("{rust:#}");
    }
    let symbol = cpp_demangle::Symbol::new(name).ok();
    symbol
        .and_then(|symbol| symbol.demangle_with_options(options).ok())
        .unwrap_or_else(|| name.to_owned())
}

/// The object file that an address lies in.
pub fn object_at(address: u64) -> Option<String> {
    exported_at(address).module
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
        function: text(info.dli_sname).map(|name| in_short(&name)),
        module,
        offset: Some(address - info.dli_fbase as u64),
        ..Location::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for (linked, source) in [
            ("_Znwm", "operator new"),
            (
                "_ZNSt6vectorIiSaIiEE17_M_realloc_insertIJRKiEEEvN9__gnu_cxx17__normal_iteratorIPiS1_EEDpOT_",
                "std::vector<int, std::allocator<int> >::_M_realloc_insert<int const&>",
            ),
            (
                "_ZN5alloc5alloc15exchange_malloc17h0123456789abcdefE",
                "alloc::alloc::exchange_malloc",
            ),
            ("strdup", "strdup"),
            ("_Zebra", "_Zebra"),
            // Of C, though each would be a type.
            ("i", "i"),
            ("St", "St"),
            ("PKc", "PKc"),
            ("", ""),
        ] {
            assert_eq!(in_short(linked), source);
            assert!(in_full(linked).contains(source));
        }
    }

    #[test]
    fn code_without_a_module_is_called_what_it_is() {
        let made = [0u8; 64];
        assert_eq!(outside_of_modules(made.as_ptr() as u64), "<code made at run time>");
        assert_eq!(outside_of_modules(4096), "<code that was unloaded>");
    }
}
