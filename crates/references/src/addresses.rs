//! A set of addresses that no search of memory finds.

use leaktight_liveset::{MappedVec, OutOfMemory};

use crate::runtime::Address;

/// Addresses, each once, in the order in which they came; in memory of its own.
pub(crate) struct AddressSet {
    order: MappedVec<Address>,
    /// Open addressing; 0 = free.
    slots: MappedVec<Address>,
}

impl AddressSet {
    pub(crate) fn new() -> AddressSet {
        AddressSet {
            order: MappedVec::new(),
            slots: MappedVec::new(),
        }
    }

    /// Says whether it is new.
    pub(crate) fn insert(&mut self, address: Address) -> Result<bool, OutOfMemory> {
        if (self.order.len() + 1) * 2 > self.slots.len() {
            self.grow()?;
        }
        let slot = self.slot(address);
        let is_new = self.slots[slot] == 0;
        if is_new {
            self.slots[slot] = address;
            self.order.push(address)?;
        }
        Ok(is_new)
    }

    pub(crate) fn contains(&self, address: &Address) -> bool {
        *address != 0 && !self.slots.is_empty() && self.slots[self.slot(*address)] == *address
    }

    pub(crate) fn clear(&mut self) {
        self.order.clear();
        self.slots.iter_mut().for_each(|slot| *slot = 0);
    }

    /// Where the address is, or belongs.
    fn slot(&self, address: Address) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) as usize >> 20 & mask;
        while self.slots[slot] != 0 && self.slots[slot] != address {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn grow(&mut self) -> Result<(), OutOfMemory> {
        let len = (self.slots.len() * 2).max(1 << 10);
        self.slots = MappedVec::new();
        for _ in 0..len {
            self.slots.push(0)?;
        }
        for at in 0..self.order.len() {
            let slot = self.slot(self.order[at]);
            self.slots[slot] = self.order[at];
        }
        Ok(())
    }
}

impl std::ops::Deref for AddressSet {
    type Target = [Address];

    fn deref(&self) -> &[Address] {
        &self.order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_set_keeps_each_address_once_and_in_order(addresses: Vec<std::num::NonZeroUsize>) {
            let mut set = AddressSet::new();
            let mut expected = Vec::new();
            for address in addresses.iter().chain(&addresses).map(|address| address.get() % 5000 + 1) {
                let is_new = !expected.contains(&address);
                proptest::prop_assert_eq!(set.insert(address).unwrap(), is_new);
                if is_new {
                    expected.push(address);
                }
            }
            proptest::prop_assert_eq!(&set[..], &expected[..]);
            proptest::prop_assert!(expected.iter().all(|address| set.contains(address)));
            proptest::prop_assert!(!set.contains(&0) && !set.contains(&5001));
        }
    }
}
