//! The live set against a plain model, on random histories, and under threads.

use std::collections::BTreeMap;

use leaktight_liveset::{Block, Family, LiveSet, Mappings, Region, is_own_memory, own_memory};
use proptest::prelude::*;

fn block(address: usize, size: usize, birth: u32) -> Block {
    Block {
        address,
        size,
        birth,
        stack: birth ^ 7,
        family: Family::PyObject,
        foreign: birth.is_multiple_of(3),
    }
}

proptest! {
    #[test]
    fn any_history_of_inserts_and_removes_matches_a_map(
        steps in prop::collection::vec((any::<bool>(), 1usize..400, 0usize..5000), 1..3000)
    ) {
        let set = LiveSet::new();
        set.open(1);
        let mut model = BTreeMap::new();
        for (birth, (add, slot, size)) in steps.into_iter().enumerate() {
            let address = slot * 16;
            if add {
                let new = block(address, size, birth as u32);
                set.insert(1, &new);
                model.insert(address, new);
            } else {
                prop_assert_eq!(set.remove(address), model.remove(&address));
            }
        }
        let mut seen = BTreeMap::new();
        set.for_each(|block| { seen.insert(block.address, *block); });
        prop_assert_eq!(&seen, &model);
        let totals = set.totals();
        prop_assert_eq!(totals.own.blocks + totals.foreign.blocks, model.len() as u64);
        let bytes: usize = model.values().filter(|block| !block.foreign).map(|block| block.size).sum();
        prop_assert_eq!(totals.own.bytes, bytes as u64);
        set.close();
    }

    #[test]
    fn mappings_unmapped_in_any_pieces_match_a_map_of_pages(
        steps in prop::collection::vec((any::<bool>(), 0usize..60, 1usize..12), 1..200)
    ) {
        const PAGE: usize = 4096;
        let mut mappings = Mappings::new();
        mappings.open(1);
        let mut model: BTreeMap<usize, u32> = BTreeMap::new();
        for (birth, (add, page, pages)) in steps.into_iter().enumerate() {
            if add {
                mappings.insert(1, &block((page + 1) * PAGE, pages * PAGE, birth as u32)).unwrap();
            } else {
                mappings.remove((page + 1) * PAGE, pages * PAGE).unwrap();
            }
            for page in page..page + pages {
                if add { model.insert(page, birth as u32); } else { model.remove(&page); }
            }
        }
        let mut seen = BTreeMap::new();
        for block in mappings.blocks() {
            for page in 0..block.size / PAGE {
                prop_assert!(seen.insert(block.address / PAGE - 1 + page, block.birth).is_none());
            }
        }
        prop_assert_eq!(seen, model);
    }
}

#[test]
fn a_block_of_an_earlier_session_is_turned_away() {
    let set = LiveSet::new();
    set.open(1);
    set.open(2);
    set.insert(1, &block(64, 8, 1));
    assert_eq!(set.totals().own.blocks + set.totals().foreign.blocks, 0);
}

#[test]
fn four_threads_lose_and_invent_nothing() {
    let set = LiveSet::new();
    set.open(1);
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let set = &set;
            scope.spawn(move || {
                for round in 0..200_000usize {
                    let address = ((round % 1000) * 4 + thread + 1) * 16;
                    set.insert(1, &block(address, round, 1));
                    if round % 1000 % 2 == 0 {
                        assert_eq!(set.remove(address).unwrap().size, round);
                    }
                }
            });
        }
    });
    assert_eq!(set.totals().own.blocks, 4 * 500);
}

#[test]
fn own_memory_is_known_and_grows_and_goes() {
    let set = LiveSet::new();
    set.open(1);
    for slot in 1..=100_000 {
        set.insert(1, &block(slot * 16, 1, 1));
    }
    assert!(!set.overflowed());
    assert!(!is_own_memory(&set as *const _ as usize));
    // Other tests map and unmap meanwhile, so only the size of the whole is asserted.
    let bytes: usize = own_memory().iter().map(|(_, len)| len).sum();
    assert!(bytes >= 100_000 * 24);
    let region = Region::new(1).unwrap();
    let start = region.start() as usize;
    assert!(is_own_memory(start) && is_own_memory(start + region.len() - 1));
    drop(region);
}
