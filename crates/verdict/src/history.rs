//! What was alive at the look before.

use std::collections::HashMap;

use crate::site::Site;
use crate::trend::Amount;

/// The sites of one look, and how much was alive of each and of its peers.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    calls: u32,
    sites: HashMap<usize, (Amount, Amount)>,
}

/// How a site has changed between two looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// It has not grown.
    None,
    /// It has grown, or it is not known.
    Some,
    /// It has grown by at least half of what was born there since and is alive.
    AsBorn,
}

impl History {
    pub(crate) fn of(calls: u32, sites: &[Site]) -> History {
        let amounts = sites.iter().map(|site| (site.id, (site.births.total(), site.peers)));
        History {
            calls,
            sites: amounts.collect(),
        }
    }

    /// The calls until then; 0 if there was no such look.
    pub(crate) fn calls(&self) -> u32 {
        self.calls
    }

    /// How many bytes more a site holds now; all of them, if it is new.
    pub(crate) fn rise(&self, site: &Site) -> u64 {
        let (before, _) = self.sites.get(&site.id).copied().unwrap_or_default();
        site.births.total().bytes.saturating_sub(before.bytes)
    }

    /// Whether the site as a whole has grown since, and with it the number of all blocks of
    /// its sizes. Its births alone do not tell: a free list hands a block on from owner to owner and
    /// from place to place, and the block keeps its birth.
    pub(crate) fn growth(&self, site: &Site, calls: u32) -> Growth {
        let earlier = self.sites.get(&site.id);
        let Some((before, peers)) = earlier.filter(|_| self.calls > 0 && self.calls < calls) else {
            return Growth::Some;
        };
        let now = site.births.total();
        let born = site.births.between(self.calls + 1, calls + 1).blocks;
        let grown = |own: u64, own_before: u64, peers: u64, peers_before: u64| {
            own.saturating_sub(own_before).min(peers.saturating_sub(peers_before))
        };
        let blocks = grown(now.blocks, before.blocks, site.peers.blocks, peers.blocks);
        let bytes = grown(now.bytes, before.bytes, site.peers.bytes, peers.bytes);
        if blocks == 0 && bytes == 0 {
            Growth::None
        } else if blocks * 2 >= born {
            Growth::AsBorn
        } else {
            Growth::Some
        }
    }
}
