//! Which allocators are in the process, in which object, and which of them serves `malloc`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use leaktight_elf::{LoadedObject, loaded_objects, objects_generation};

use crate::allocator::any::{Heap, find};
use crate::functions::Functions;
use crate::loaded::{Held, Object};

/// One allocator in one object.
pub(crate) struct Present {
    heap: Box<dyn Heap>,
    object: Object,
    /// Whether the object is CPython, whose allocations are seen without asking the allocator below.
    in_interpreter: bool,
    /// Whether its functions were found where the loader put them.
    is_loaded: bool,
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
        let mut first = None;
        loaded_objects(|object| {
            if first.is_none() && object.defines(c"malloc").is_some() {
                first = Some(Exports::of(object));
            }
        });
        let Some(first) = first else { return Server::Nobody };
        let path = first.object.path();
        // A program may have one linked in without exporting more than `malloc`.
        let mut found = first.allocators(<[_]>::is_empty);
        match found.first() {
            Some(server) if server.is_loaded => Server::Known(found.swap_remove(0)),
            _ => Server::Unknown(path),
        }
    })
}

/// All of them, in the order in which their objects were loaded. Objects that were looked at before are not
/// looked at again.
pub(crate) fn present() -> Vec<Arc<Present>> {
    static SEEN: Mutex<Option<Seen>> = Mutex::new(None);
    // Never waited for: after a fork it may be held for ever.
    match SEEN.try_lock() {
        Ok(mut seen) => seen.get_or_insert_default().update(),
        Err(_) => Seen::default().update(),
    }
}

#[derive(Default)]
struct Seen {
    /// How many objects had been loaded and unloaded when somebody last looked.
    generation: Option<(u64, u64)>,
    objects: HashMap<Object, Vec<Arc<Present>>>,
    /// The allocators of all of them.
    present: Vec<Arc<Present>>,
}

impl Seen {
    fn update(&mut self) -> Vec<Arc<Present>> {
        let generation = objects_generation();
        if self.generation == Some(generation) {
            return self.present.clone();
        }
        // At the place of one that was unloaded there may be another.
        if self.generation.is_some_and(|(_, unloaded)| unloaded != generation.1) {
            self.objects.clear();
        }
        self.generation = Some(generation);
        let (mut all, mut new) = (Vec::new(), Vec::new());
        loaded_objects(|loaded| {
            let object = Object::of(loaded);
            if !self.objects.contains_key(&object) {
                // An allocator gives memory back by `madvise`, so what does not call it has none to hide.
                new.push((Exports::of(loaded), loaded.imports(c"madvise")));
            }
            all.push(object);
        });
        // Files are read when the loader's lock is free again.
        for (exports, hides_some) in new {
            let object = exports.object.clone();
            let found = exports.allocators(|_| hides_some);
            self.objects.insert(object, found.into_iter().map(Arc::new).collect());
        }
        let present = all.iter().filter_map(|object| self.objects.get(object)).flatten();
        self.present = present.cloned().collect();
        self.present.clone()
    }
}

/// What the loader knows of an object.
struct Exports {
    object: Object,
    functions: Functions,
    is_interpreter: bool,
}

impl Exports {
    fn of(loaded: &LoadedObject<'_>) -> Exports {
        Exports {
            object: Object::of(loaded),
            functions: Functions::exported(loaded),
            is_interpreter: loaded.defines(c"Py_Initialize").is_some(),
        }
    }

    /// The allocators that it exports, and those that it keeps to itself if `in_file` wants them.
    fn allocators(self, in_file: impl FnOnce(&[Present]) -> bool) -> Vec<Present> {
        let mut present = Vec::new();
        self.add(&mut present, &self.functions, true);
        if in_file(&present)
            && let Some(_held) = Held::new(&self.object)
            && let Some((functions, is_loaded)) = Functions::in_file(&self.object)
        {
            self.add(&mut present, &functions, is_loaded);
        }
        present
    }

    fn add(&self, present: &mut Vec<Present>, functions: &Functions, is_loaded: bool) {
        // SAFETY: what an object exports, or has in its file, under the name of an allocator's function is that
        // function. `server` and `Present::ask` see to it that the object stays loaded.
        for heap in unsafe { find(functions) } {
            if present.iter().all(|known| known.name() != heap.name()) {
                present.push(Present {
                    heap,
                    object: self.object.clone(),
                    in_interpreter: self.is_interpreter,
                    is_loaded,
                });
            }
        }
    }
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
        self.object.path()
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
