//! Owns `Index`: finds places in a table by hash, with one cache line touched where two would be.

use alloc::{vec, vec::Vec};

/// An empty slot.
const EMPTY: u64 = u64::MAX;

/// A hash table of places (`u32`) that keeps 32 bits of each hash beside the place.
///
/// Linear probing, and a removal closes its hole: there are no marks of what was removed, so nothing
/// has to be rehashed however long sockets come and go, and growing does not touch the table that the
/// places are in. A `hashbrown::HashTable` does both, each time with a miss of the cache per socket.
#[derive(Debug)]
pub(crate) struct Index {
    /// Hash in the upper half, place in the lower. A power of two, or none.
    slots: Vec<u64>,
    len: usize,
}

impl Index {
    pub(crate) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            len: 0,
        }
    }

    /// All places that were put in with this hash, and perhaps some with another, in any order.
    pub(crate) fn with(&self, hash: u64) -> impl Iterator<Item = u32> {
        let kept = hash >> 32;
        let mut at = self.home(kept);
        core::iter::from_fn(move || {
            loop {
                let slot = *self.slots.get(at)?;
                if slot == EMPTY {
                    return None;
                }
                at = self.next(at);
                if slot >> 32 == kept {
                    return Some(place(slot));
                }
            }
        })
    }

    /// Puts a place in. `u32::MAX` is none.
    pub(crate) fn insert(&mut self, hash: u64, index: u32) {
        // Three quarters full at most: so a search ends within one or two cache lines.
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        self.put((hash >> 32 << 32) | u64::from(index));
        self.len += 1;
    }

    /// Takes a place out that was put in with this hash.
    pub(crate) fn remove(&mut self, hash: u64, index: u32) {
        let wanted = (hash >> 32 << 32) | u64::from(index);
        let mut hole = self.home(hash >> 32);
        loop {
            match self.slots.get(hole) {
                Some(slot) if *slot == wanted => break,
                Some(slot) if *slot != EMPTY => hole = self.next(hole),
                Some(_) | None => return,
            }
        }
        self.len -= 1;
        // Whatever comes after the hole and belongs at it or before it moves there.
        let mut at = hole;
        loop {
            at = self.next(at);
            let slot = self.slots[at];
            if slot == EMPTY {
                break;
            }
            let from_home = self.distance(self.home(slot >> 32), at);
            if from_home >= self.distance(hole, at) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = EMPTY;
    }

    fn grow(&mut self) {
        let larger = (self.slots.len() * 2).max(64);
        let before = core::mem::replace(&mut self.slots, vec![EMPTY; larger]);
        for slot in before {
            if slot != EMPTY {
                self.put(slot);
            }
        }
    }

    fn put(&mut self, slot: u64) {
        let mut at = self.home(slot >> 32);
        while self.slots[at] != EMPTY {
            at = self.next(at);
        }
        self.slots[at] = slot;
    }

    /// Where a slot with these 32 bits of hash belongs: their upper bits say.
    fn home(&self, kept: u64) -> usize {
        let slots = self.slots.len() as u64;
        usize::try_from((kept * slots) >> 32).unwrap_or(0)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    /// How many slots after `from` the slot `to` comes.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.slots.len() - 1)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the upper half is the hash"
)]
const fn place(slot: u64) -> u32 {
    slot as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash of which the upper half is `kept`.
    const fn hash(kept: u32) -> u64 {
        ((kept as u64) << 32) | 0xdead
    }

    fn found(index: &Index, kept: u32) -> Vec<u32> {
        let mut found: Vec<_> = index.with(hash(kept)).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn an_empty_index_has_nothing() {
        let mut index = Index::new();
        assert_eq!(found(&index, 7), []);
        index.remove(hash(7), 1);
        assert_eq!(index.len, 0);
    }

    #[test]
    fn places_with_the_same_hash_are_all_found() {
        let mut index = Index::new();
        for place in [5, 6, 7] {
            index.insert(hash(u32::MAX), place);
        }
        index.insert(hash(1), 8);
        assert_eq!(found(&index, u32::MAX), [5, 6, 7]);
        index.remove(hash(u32::MAX), 6);
        assert_eq!(found(&index, u32::MAX), [5, 7]);
        assert_eq!(found(&index, 1), [8]);
    }

    #[test]
    fn what_comes_and_goes_for_long_is_found_and_takes_no_more_room() {
        let mut index = Index::new();
        // Crowded on purpose: 16 values of the hash for up to 48 places.
        let kept = |place: u32| (place * 7 % 16) << 28;
        for place in 0..10_000_u32 {
            index.insert(hash(kept(place)), place);
            if let Some(old) = place.checked_sub(47) {
                index.remove(hash(kept(old)), old);
            }
            let oldest = place.saturating_sub(46);
            assert_eq!(index.len, (place - oldest + 1) as usize);
            for known in oldest..=place {
                assert!(index.with(hash(kept(known))).any(|found| found == known));
            }
        }
        assert_eq!(index.slots.len(), 64);
    }

    #[test]
    fn it_grows() {
        let mut index = Index::new();
        let kept = |place: u32| place.wrapping_mul(0x9e37_79b9);
        for place in 0..5000 {
            index.insert(hash(kept(place)), place);
        }
        for place in 0..5000 {
            assert_eq!(found(&index, kept(place)), [place]);
        }
        assert_eq!(index.slots.len(), 8192);
    }
}
