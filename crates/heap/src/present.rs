//! Which allocators are in the process, in which object, and which of them serves `malloc`.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock};

use leaktight_elf::{LoadedObject, loaded_objects, objects_generation};

use crate::allocator::any::{Heap, find};
use crate::functions::Functions;

/// One allocator in one object.
pub(crate) struct Present {
    heap: Box<dyn Heap>,
    object: Object,
    /// Whether the object is CPython, whose allocations are seen without asking the allocator below.
    in_interpreter: bool,
    /// Whether its functions were found where the loader put them.
    is_loaded: bool,
}

/// A loaded object, to find it again.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Object {
    /// As the loader has it: empty for the program itself.
    name: CString,
    base: usize,
}

/// Who serves `malloc`.
pub(crate) enum Server {
    /// An allocator that can be asked.
    Known(Present),
    /// Another one, in the object of this path.
    Unknown(String),
    /// No object defines `malloc`: the program is statically linked.
    Nobody,
}

/// The first object that defines `malloc` is the one that the loader bound everybody's to. It cannot change or
/// be unloaded, since it was there when the program started.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let mut server = Server::Nobody;
        loaded_objects(|object| {
            if matches!(server, Server::Nobody) && object.defines(c"malloc").is_some() {
                // A program may have one linked in without exporting more than `malloc`.
                server = match look(object, <[_]>::is_empty).into_iter().next() {
                    Some(present) => Server::Known(present),
                    None => Server::Unknown(path(object.name())),
                };
            }
        });
        server
    })
}

/// All of them, in the order in which their objects were loaded. Objects that were looked at before are not
/// looked at again.
pub(crate) fn present() -> Vec<Arc<Present>> {
    static SEEN: Mutex<Seen> = Mutex::new(Seen {
        unloaded: 0,
        objects: None,
    });
    // Never waited for: after a fork it may be held for ever.
    match SEEN.try_lock() {
        Ok(mut seen) => seen.update(),
        Err(_) => Seen {
            unloaded: 0,
            objects: None,
        }
        .update(),
    }
}

struct Seen {
    /// How many objects had been unloaded. If one more is, another may be loaded at its place.
    unloaded: u64,
    objects: Option<HashMap<Object, Vec<Arc<Present>>>>,
}

impl Seen {
    fn update(&mut self) -> Vec<Arc<Present>> {
        let (_, unloaded) = objects_generation();
        if self.unloaded != unloaded {
            self.objects = None;
            self.unloaded = unloaded;
        }
        let known = self.objects.get_or_insert_default();
        let mut all = Vec::new();
        loaded_objects(|object| {
            let found = known.entry(Object::of(object)).or_insert_with(|| {
                // An allocator gives memory back by `madvise`, so what does not call it has none to hide.
                look(object, |_| object.imports(c"madvise"))
                    .into_iter()
                    .map(Arc::new)
                    .collect()
            });
            all.extend(found.iter().cloned());
        });
        all
    }
}

/// The allocators in an object: those that it exports, and those that it keeps to itself if `in_file` wants them.
fn look(object: &LoadedObject<'_>, in_file: impl FnOnce(&[Present]) -> bool) -> Vec<Present> {
    let in_interpreter = object.defines(c"Py_Initialize").is_some();
    let mut present: Vec<Present> = Vec::new();
    let add = |present: &mut Vec<Present>, functions: &Functions, is_loaded| {
        // SAFETY: what an object exports, or has in its file, under the name of an allocator's function is that
        // function. `server` and `Present::ask` see to it that the object stays loaded.
        for heap in unsafe { find(functions) } {
            if present.iter().all(|known| known.name() != heap.name()) {
                present.push(Present {
                    heap,
                    object: Object::of(object),
                    in_interpreter,
                    is_loaded,
                });
            }
        }
    };
    add(&mut present, &Functions::exported(object), true);
    if in_file(&present)
        && let Some((functions, is_loaded)) = Functions::in_file(object, &path_to_read(object.name()))
    {
        add(&mut present, &functions, is_loaded);
    }
    present
}

/// Names and paths of the allocators that libraries brought along for themselves. None is called.
pub(crate) fn private() -> Vec<(&'static str, String)> {
    let present = present();
    let private = present
        .iter()
        .filter(|present| present.name() != "glibc" && !present.serves_malloc());
    let unseen = private.filter(|present| !present.in_interpreter);
    unseen.map(|present| (present.name(), present.path())).collect()
}

impl Present {
    pub(crate) fn name(&self) -> &'static str {
        self.heap.name()
    }

    /// The path of its object.
    pub(crate) fn path(&self) -> String {
        path(&self.object.name)
    }

    pub(crate) fn serves_malloc(&self) -> bool {
        matches!(server(), Server::Known(server) if server.object == self.object && server.name() == self.name())
    }

    /// The allocator, if it is the one that serves `malloc`: it is always there.
    pub(crate) fn server(&self) -> &dyn Heap {
        &*self.heap
    }

    /// Puts a question to the allocator while its object is held in memory.
    ///
    /// # Errors
    /// Where it cannot be asked.
    pub(crate) fn ask<R>(&self, question: impl FnOnce(&dyn Heap) -> R) -> Result<R, String> {
        if !self.is_loaded {
            return Err("its file is no longer the one that was loaded".to_owned());
        }
        let _held = Held::new(&self.object).ok_or("it was unloaded meanwhile")?;
        Ok(question(&*self.heap))
    }
}

impl Object {
    fn of(object: &LoadedObject<'_>) -> Object {
        Object {
            name: object.name().to_owned(),
            base: object.base,
        }
    }
}

/// `<dlfcn.h>` of glibc and of musl.
const RTLD_DI_LINKMAP: c_int = 2;

unsafe extern "C" {
    /// `<dlfcn.h>`. The libc crate has it for glibc only.
    fn dlinfo(handle: *mut c_void, request: c_int, answer: *mut c_void) -> c_int;
}

/// Keeps an object loaded.
struct Held(*mut c_void);

impl Held {
    fn new(object: &Object) -> Option<Held> {
        let name = if object.name.is_empty() {
            ptr::null()
        } else {
            object.name.as_ptr()
        };
        // SAFETY: a string or null, for the program; nothing new is loaded.
        let handle = unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if handle.is_null() {
            return None;
        }
        let held = Held(handle);
        let mut map: *const usize = ptr::null();
        // SAFETY: a handle of dlopen's; `map` becomes a `struct link_map`, whose first word is the base
        // (<link.h>), and which lives as long as the object is loaded.
        let same = unsafe { dlinfo(handle, RTLD_DI_LINKMAP, (&raw mut map).cast()) == 0 && *map == object.base };
        same.then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the handle is dlopen's, and not used any more.
        unsafe { libc::dlclose(self.0) };
    }
}

/// The program has no path for the loader, but a link to it.
fn path_to_read(name: &CStr) -> String {
    let name = if name.is_empty() { c"/proc/self/exe" } else { name };
    name.to_string_lossy().into_owned()
}

pub(crate) fn path(name: &CStr) -> String {
    let path = path_to_read(name);
    match std::fs::read_link(&path) {
        Ok(program) if name.is_empty() => program.to_string_lossy().into_owned(),
        _ => path,
    }
}
