//! Owns `Table`: values in a slab that grows by chunks and knows which of them is the oldest.

use alloc::{collections::VecDeque, vec::Vec};

/// Slots in one chunk. A slab of chunks never copies itself to grow, so that no input pays for it.
const CHUNK: usize = 512;

/// No slot: the end of the chain of free ones.
const NONE: u32 = u32::MAX;

/// When the oldest is asked for, so many of the oldest are looked for at once, as a part of all: a
/// search goes through all of them, but it goes through memory in its order.
const OLDEST_PART: usize = 16;

/// A place in a table, and which of its values in turn is meant: a key outlives its value, and then
/// finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    /// The lower half of the number that the value came with.
    number: u32,
}

impl Key {
    /// The place.
    pub(crate) const fn index(self) -> u32 {
        self.index
    }
}

/// Values by place.
#[derive(Debug)]
pub(crate) struct Table<T> {
    chunks: Vec<Vec<Slot<T>>>,
    /// Head of the chain of free slots, through [`Slot::number`].
    free: u32,
    len: usize,
    /// How many values have been put in.
    inserted: u64,
    /// Some of the oldest, the oldest first, as they were when they were last looked for.
    oldest: VecDeque<Key>,
}

#[derive(Debug)]
struct Slot<T> {
    /// Which value this is, counted from the first; in a free slot, the next free one.
    number: u64,
    value: Option<T>,
}

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: NONE,
            len: 0,
            inserted: 0,
            oldest: VecDeque::new(),
        }
    }

    /// How many values there are.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Puts a value in.
    pub(crate) fn insert(&mut self, value: T) -> Key {
        let number = self.inserted;
        let slot = Slot {
            number,
            value: Some(value),
        };
        let index = match self.slot_mut(self.free) {
            Some(free) => {
                let next = lower_half(free.number);
                *free = slot;
                core::mem::replace(&mut self.free, next)
            }
            None => self.push(slot),
        };
        self.inserted += 1;
        self.len += 1;
        Key {
            index,
            number: lower_half(number),
        }
    }

    /// Takes a value out; `None` when the place is empty.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let free = self.free;
        let slot = self.slot_mut(index)?;
        let value = slot.value.take()?;
        slot.number = u64::from(free);
        self.free = index;
        self.len -= 1;
        Some(value)
    }

    /// Takes the value out that a key was given for.
    pub(crate) fn remove_key(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        self.remove(key.index)
    }

    /// The value at a place.
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.slot(index)?.value.as_ref()
    }

    /// The value at a place, to be changed.
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slot_mut(index)?.value.as_mut()
    }

    /// The value that a key was given for, if it is still there.
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slot(key.index)?;
        (lower_half(slot.number) == key.number)
            .then_some(slot.value.as_ref())
            .flatten()
    }

    /// Likewise, to be changed.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.get(key)?;
        self.at_mut(key.index)
    }

    /// The key of the value at a place.
    pub(crate) fn key(&self, index: u32) -> Option<Key> {
        let slot = self.slot(index)?;
        slot.value.is_some().then_some(Key {
            index,
            number: lower_half(slot.number),
        })
    }

    /// The place of the oldest value.
    pub(crate) fn oldest(&mut self) -> Option<u32> {
        loop {
            while let Some(key) = self.oldest.front() {
                if self.get(*key).is_some() {
                    return Some(key.index);
                }
                self.oldest.pop_front();
            }
            if self.len == 0 {
                return None;
            }
            let mut all = self.keys_by_age();
            all.truncate(self.len.div_ceil(OLDEST_PART));
            self.oldest = all.into();
        }
    }

    /// All places that have a value, in their order.
    pub(crate) fn places(&self) -> Vec<u32> {
        let slots = self.chunks.iter().flatten().zip(0_u32..);
        slots
            .filter(|(slot, _)| slot.value.is_some())
            .map(|(_, index)| index)
            .collect()
    }

    /// All keys, of the oldest first.
    pub(crate) fn keys_by_age(&self) -> Vec<Key> {
        let slots = self.chunks.iter().flatten().zip(0_u32..);
        let mut all: Vec<(u64, u32)> = slots
            .filter(|(slot, _)| slot.value.is_some())
            .map(|(slot, index)| (slot.number, index))
            .collect();
        all.sort_unstable();
        all.into_iter()
            .map(|(number, index)| Key {
                index,
                number: lower_half(number),
            })
            .collect()
    }

    /// All values in the order of their places, to be changed: the fast way through.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.chunks
            .iter_mut()
            .flatten()
            .filter_map(|slot| slot.value.as_mut())
    }

    fn push(&mut self, slot: Slot<T>) -> u32 {
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let last = self.chunks.last_mut().expect("one was just made sure of");
        last.push(slot);
        u32::try_from(before + last.len() - 1).expect("far more than any memory holds")
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        let index = index as usize;
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        let index = index as usize;
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is wanted"
)]
const fn lower_half(number: u64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(table: &Table<u32>) -> Vec<u32> {
        let by_age = table.keys_by_age();
        by_age.iter().map(|key| *table.get(*key).unwrap()).collect()
    }

    #[test]
    fn values_are_known_by_their_age() {
        let mut table = Table::new();
        let keys: Vec<Key> = (0..5).map(|value| table.insert(value)).collect();
        assert_eq!(table.remove(keys[2].index()), Some(2));
        assert_eq!(table.remove(keys[0].index()), Some(0));
        assert_eq!(values(&table), [1, 3, 4]);
        table.insert(5);
        table.insert(6);
        assert_eq!(values(&table), [1, 3, 4, 5, 6]);
        assert_eq!(table.len(), 5);
    }

    #[test]
    fn the_oldest_is_the_oldest_whatever_comes_and_goes() {
        let mut table = Table::new();
        for value in 0..100 {
            table.insert(value);
        }
        for value in 100..1000 {
            // Now and then one is gone before it is the oldest.
            if value % 3 == 0 {
                let some = table.keys_by_age()[50].index();
                table.remove(some);
            }
            let oldest = table.oldest().unwrap();
            assert_eq!(
                Some(table.at(oldest)),
                Some(table.at(table.keys_by_age()[0].index()))
            );
            table.remove(oldest);
            table.insert(value);
            table.insert(value);
        }
    }

    #[test]
    fn a_key_does_not_find_the_next_value_in_its_place() {
        let mut table = Table::new();
        let first = table.insert(1);
        assert_eq!(table.remove(first.index()), Some(1));
        assert_eq!(table.remove(first.index()), None);
        let second = table.insert(2);
        assert_eq!(second.index(), first.index());
        assert_eq!(table.get(first), None);
        assert_eq!(table.get(second), Some(&2));
        assert_eq!(table.key(second.index()), Some(second));
        assert_eq!(table.remove_key(first), None);
        assert_eq!(table.remove_key(second), Some(2));
    }

    #[test]
    fn an_empty_table_has_no_oldest() {
        let mut table = Table::new();
        assert_eq!(table.oldest(), None);
        let key = table.insert(1);
        assert_eq!(table.oldest(), Some(key.index()));
        table.remove(key.index());
        assert_eq!(table.oldest(), None);
        assert_eq!(table.len(), 0);
        assert_eq!(table.at(7), None);
    }

    #[test]
    fn it_grows_over_chunks_and_reuses_what_is_free() {
        let mut table = Table::new();
        let keys: Vec<Key> = (0..2000).map(|value| table.insert(value)).collect();
        for key in &keys {
            table.remove(key.index());
        }
        for value in 0..2000 {
            table.insert(value);
        }
        assert_eq!(table.chunks.len(), 2000_usize.div_ceil(CHUNK));
        assert_eq!(values(&table), (0..2000).collect::<Vec<_>>());
        assert_eq!(table.values_mut().count(), 2000);
    }
}
