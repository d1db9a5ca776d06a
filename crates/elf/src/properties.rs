//! What was planted in a made-up object is found and nothing else, and tables that make no sense lead nowhere.

use std::collections::BTreeMap;
use std::ffi::CString;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::images::{Image, PAGE, Plan, Symbol, TABLES, WORDS, gnu_hash};
use crate::relocations::kind;

const GLOBAL_FUNCTION: u8 = 0x12;
const HIDDEN: u16 = 0x8000;

/// A word that the loader relocates; most are slots, the rest lack one property.
#[derive(Clone, Debug)]
struct Relocation {
    offset: u64,
    kind: u32,
    symbol: Option<Index>,
    addend: i64,
    slot: bool,
}

/// Short names of few letters share their hash under either function ("ab" and "bA", "aq" and "ba").
fn name() -> impl Strategy<Value = CString> {
    let text = prop_oneof!["[abqrABQR]{1,4}", "[a-z_0-9]{1,20}", "[^\\x00]{1,30}"];
    text.prop_map(|text| CString::new(text).unwrap())
}

/// A symbol but for its name, and whether it defines that.
fn symbol() -> impl Strategy<Value = (Symbol, bool)> {
    let of = |info, section, value, version| Symbol {
        name: CString::default(),
        info,
        section,
        value,
        version,
    };
    let value = 1..u64::from(u32::MAX);
    let global = select(vec![GLOBAL_FUNCTION, 0x10, 0x11, 0x15, 0x22, 0xa1]);
    let others = vec![
        of(0x02, 7, 64, 0),                     // local
        of(0x16, 7, 64, 1),                     // thread-local
        of(0x1a, 7, 64, 1),                     // indirect
        of(0x10, 0xfff1, 64, 1),                // absolute
        of(GLOBAL_FUNCTION, 7, 0, 1),           // without a value
        of(GLOBAL_FUNCTION, 7, 64, HIDDEN | 2), // an older version only
    ];
    prop_oneof![
        5 => (global, value.clone(), 1..9u16).prop_map(move |(info, value, version)| (of(info, 7, value, version), true)),
        3 => (0..value.end).prop_map(move |value| (of(GLOBAL_FUNCTION, 0, value, 2), false)),
        2 => select(others).prop_map(|other| (other, false)),
    ]
}

fn relocation() -> impl Strategy<Value = Relocation> {
    let kinds = select(vec![kind::JUMP_SLOT, kind::GLOB_DAT, kind::ABSOLUTE]);
    let slot = (0..WORDS / 8, kinds, any::<Index>()).prop_map(|(word, kind, symbol)| Relocation {
        offset: (TABLES + word * 8) as u64,
        kind,
        symbol: Some(symbol),
        addend: 0,
        slot: true,
    });
    let spoilt = |mut relocation: Relocation, how: u8| {
        relocation.slot = false;
        match how {
            0 => relocation.kind = 37,
            1 => relocation.addend = -8,
            2 => relocation.symbol = None,
            3 => relocation.offset += 4,
            4 => relocation.offset -= TABLES as u64,
            _ => relocation.offset += (TABLES + WORDS) as u64,
        }
        relocation
    };
    (slot, prop_oneof![Just(None), (0..6u8).prop_map(Some)]).prop_map(move |(slot, how)| match how {
        Some(how) => spoilt(slot, how),
        None => slot,
    })
}

/// A plan, what it defines, and its slots: offset, name, lazy, undefined.
type Case = (Plan, BTreeMap<CString, usize>, Vec<(usize, CString, bool, bool)>);

fn case() -> impl Strategy<Value = Case> {
    let symbols = btree_map(name(), (symbol(), any::<bool>()), 1..60);
    let relocations = || vec(relocation(), 0..20);
    let hashes = select(vec![(true, false), (false, true), (true, true)]);
    let numbers = (1..12usize, 1..5usize, 0..24usize, any::<bool>());
    let parts = (symbols, relocations(), relocations(), hashes, numbers);
    parts.prop_map(
        |(names, jump, rela, (gnu_hash, sysv_hash), (buckets, bloom_words, odd_bytes, relative))| {
            let mut defined = BTreeMap::new();
            let mut symbols = Vec::new();
            for (name, ((symbol, defines), older)) in names {
                if defines {
                    defined.insert(name.clone(), symbol.value as usize);
                }
                if defines && older {
                    let (version, value) = (HIDDEN | 9, symbol.value + 1);
                    symbols.push(Symbol {
                        name: name.clone(),
                        version,
                        value,
                        ..symbol
                    });
                }
                symbols.push(Symbol { name, ..symbol });
            }
            // As DT_GNU_HASH wants it.
            symbols.sort_by_key(|symbol| match symbol.section != 0 && symbol.info >> 4 != 0 {
                true => 1 + self::gnu_hash(&symbol.name) % buckets,
                false => 0,
            });
            let mut slots = Vec::new();
            let mut lay = |relocation: Relocation| {
                let symbol = relocation.symbol.map(|index| index.index(symbols.len()));
                if let (true, Some(symbol)) = (relocation.slot, symbol.map(|at| &symbols[at])) {
                    let lazy = relocation.kind == kind::JUMP_SLOT;
                    slots.push((
                        relocation.offset as usize,
                        symbol.name.clone(),
                        lazy,
                        symbol.section == 0,
                    ));
                }
                (
                    relocation.offset,
                    relocation.kind,
                    symbol.map_or(0, |at| at + 1),
                    relocation.addend,
                )
            };
            let (jump, rela) = (
                jump.into_iter().map(&mut lay).collect(),
                rela.into_iter().map(&mut lay).collect(),
            );
            let plan = Plan {
                symbols,
                jump,
                rela,
                gnu_hash,
                sysv_hash,
                buckets,
                bloom_words,
                relative,
                odd_bytes,
            };
            (plan, defined, slots)
        },
    )
}

/// Anything, a count or an index, an address in the object.
fn damage() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..200u64, 0..TABLES as u64]
}

proptest! {
    #[test]
    fn definitions_and_slots_are_those_that_were_planted(
        (plan, defined, slots) in case(),
        others in btree_set(name(), 0..40),
    ) {
        let image = Image::of(&plan);
        let names = plan.symbols.iter().map(|symbol| symbol.name.clone()).chain(others);
        image.with(|object| {
            for name in names {
                let expected = defined.get(&name).map(|value| object.base + value);
                prop_assert_eq!(object.defines(&name), expected, "{:?}", name);
            }
            let found = object.slots(|_, _| true).map(|slot| {
                (slot.address - object.base, slot.symbol_name().to_owned(), slot.lazy, slot.undefined)
            });
            prop_assert_eq!(found.collect::<Vec<_>>(), slots);
            Ok(())
        })?;
    }

    /// Only that it comes to an end, without a fault, and that a slot can be written.
    #[test]
    fn damaged_tables_lead_nowhere(
        (plan, _, _) in case(),
        damage in vec((any::<Index>(), damage()), 1..60),
        // Where the tables are, and how long.
        damage_of_dynamic in vec((0..28usize, damage()), 0..4),
        names in btree_set(name(), 0..10),
    ) {
        let mut image = Image::of(&plan);
        let words: Vec<usize> = image.tables().iter().enumerate().filter(|(_, word)| **word != 0).map(|(at, _)| at).collect();
        for (index, value) in damage {
            image.tables()[words[index.index(words.len())]] = value;
        }
        for (word, value) in damage_of_dynamic {
            image.tables()[(TABLES - PAGE) / 8 + word] = value;
        }
        image.with(|object| {
            for name in plan.symbols.iter().map(|symbol| &symbol.name).chain(&names) {
                object.defines(name);
            }
            let words = image.base() + TABLES..image.base() + TABLES + WORDS;
            for slot in object.slots(|_, _| true) {
                slot.symbol_name();
                prop_assert!(words.contains(&slot.address) && slot.address.is_multiple_of(8));
            }
            Ok(())
        })?;
    }
}
