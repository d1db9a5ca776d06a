//! Linux, whoever serves `malloc` there.

use std::sync::Arc;

use crate::allocator::any::{Heap, Told};
use crate::present::{Present, Server, present, server};
use crate::{Allocator, Error, HeapInfo, Statistics};
use crate::{loaded, mappings};

pub(crate) fn heap_info() -> Result<HeapInfo, Error> {
    serving("heap_info")?.heap_info()
}

pub(crate) fn statistics_of_malloc() -> Option<Statistics> {
    Some(serving("statistics").ok()?.statistics().ok()?.statistics)
}

pub(crate) fn heap_trim() -> Result<(), Error> {
    serving("heap_trim")?.trim()
}

fn serving(what: &'static str) -> Result<&'static dyn Heap, Error> {
    let why = match server() {
        Server::Known(present) => return Ok(present.server()),
        server => cannot_be_asked(server),
    };
    Err(Error::Unsupported { what, why })
}

fn cannot_be_asked(server: &Server) -> String {
    match server {
        Server::Unknown(path) => format!("malloc is served by {path}, and that is no allocator known here"),
        _ => "the program is statically linked, so its malloc cannot be found; link it dynamically".to_owned(),
    }
}

pub(crate) fn allocators() -> Vec<Allocator> {
    let mut allocators: Vec<Allocator> = present().iter().map(entry).collect();
    if let Some(unknown) = unknown(server()) {
        allocators.push(unknown);
    }
    allocators.sort_by_key(|allocator| !allocator.serves_malloc);
    allocators
}

fn unknown(server: &Server) -> Option<Allocator> {
    let object = match server {
        Server::Known(_) => return None,
        Server::Unknown(path) => path.clone(),
        Server::Nobody => loaded::program(),
    };
    Some(Allocator {
        name: "unknown",
        version: None,
        object,
        serves_malloc: true,
        statistics: Err(format!("{}; {}", cannot_be_asked(server), mappings::upper_limit())),
        note: None,
    })
}

fn entry(present: &Arc<Present>) -> Allocator {
    let told = present.ask(|heap| (heap.version(), heap.statistics().map_err(in_words)));
    let (version, told) = told.unwrap_or_else(|why| (None, Err(why)));
    let (statistics, note) = match told {
        Ok(Told { statistics, note }) => (Ok(statistics), note),
        Err(why) => (Err(why), None),
    };
    Allocator {
        name: present.name(),
        version,
        object: present.path(),
        serves_malloc: present.serves_malloc(),
        statistics,
        note,
    }
}

fn in_words(error: Error) -> String {
    match error {
        Error::Unsupported { why, .. } => why,
        failed => failed.to_string(),
    }
}
