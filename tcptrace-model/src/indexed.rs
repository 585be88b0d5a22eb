//! Owns `Indexed`: a table whose entries are found by the kernel's address and by tuple, and by local
//! port when that is asked for.

use alloc::{collections::BTreeSet, vec::Vec};
use core::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;

use crate::{
    index::Index,
    table::{Key, Table},
    tuple::{Tuple, may_be_same},
};

/// What can stand in such a table.
pub(crate) trait Entry {
    /// Its address in the kernel; 0 as long as only a snapshot has shown it.
    fn address(&self) -> u64;
    /// Inode number of its network namespace.
    fn netns(&self) -> Option<u32>;
    /// Its addresses and ports; `None` when a port is 0, which no connection has.
    fn tuple(&self) -> Option<Tuple>;
    /// Whether it is found by its tuple: for the table to write.
    fn indexed(&mut self) -> &mut bool;
}

/// The entries, each found by its address once that is known, and by its tuple when that is asked for.
#[derive(Debug)]
pub(crate) struct Indexed<T> {
    table: Table<T>,
    by_address: Index,
    by_tuple: Index,
    /// Those found by tuple, by local port and place; `None` while nobody asks.
    by_port: Option<BTreeSet<(u16, u32)>>,
    hasher: DefaultHashBuilder,
}

impl<T: Entry> Indexed<T> {
    pub(crate) fn new() -> Self {
        Self {
            table: Table::new(),
            by_address: Index::new(),
            by_tuple: Index::new(),
            by_port: None,
            hasher: DefaultHashBuilder::default(),
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.table.at(index)
    }

    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.table.at_mut(index)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        self.table.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.table.get_mut(key)
    }

    pub(crate) fn key(&self, index: u32) -> Option<Key> {
        self.table.key(index)
    }

    pub(crate) fn oldest(&mut self) -> Option<u32> {
        self.table.oldest()
    }

    /// All, the oldest first.
    pub(crate) fn by_age(&self) -> Vec<Key> {
        self.table.keys_by_age()
    }

    /// Where all of them stand, in no particular but always the same order.
    pub(crate) fn places(&self) -> Vec<u32> {
        self.table.places()
    }

    /// All, in no particular but always the same order.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.table.values_mut()
    }

    /// The entry with this address.
    pub(crate) fn with_address(&self, address: u64) -> Option<u32> {
        let is_it = |entry: &T| entry.address() == address;
        self.by_address
            .with(self.hasher.hash_one(address))
            .find(|index| self.table.at(*index).is_some_and(is_it))
    }

    /// The entry with this tuple in this namespace, among those that are found by tuple. Should an
    /// unknown namespace make it several, it is the one in the first place.
    pub(crate) fn with_tuple(&self, tuple: Tuple, netns: Option<u32>) -> Option<u32> {
        self.having(tuple)
            .filter(|(_, entry)| may_be_same(entry.netns(), netns))
            .map(|(index, _)| index)
            .min()
    }

    /// Those with this tuple that are found by it.
    pub(crate) fn having(&self, tuple: Tuple) -> impl Iterator<Item = (u32, &T)> {
        self.by_tuple
            .with(self.hasher.hash_one(tuple))
            .filter_map(move |index| {
                let entry = self.table.at(index)?;
                (entry.tuple() == Some(tuple)).then_some((index, entry))
            })
    }

    /// Makes those that are found by tuple found by their local port as well, or no longer. It costs
    /// each connection, so it is done only while somebody asks.
    pub(crate) fn by_port(&mut self, found: bool) {
        if !found {
            self.by_port = None;
        } else if self.by_port.is_none() {
            let mut by_port = BTreeSet::new();
            for index in self.table.places() {
                if let Some(entry) = self.table.at_mut(index)
                    && *entry.indexed()
                    && let Some(tuple) = entry.tuple()
                {
                    by_port.insert((tuple.local_port(), index));
                }
            }
            self.by_port = Some(by_port);
        }
    }

    /// Those with this local port, in no particular but always the same order; none unless
    /// [`Indexed::by_port`] has been asked for.
    pub(crate) fn with_port(&self, port: u16) -> impl Iterator<Item = &T> {
        self.by_port
            .iter()
            .flat_map(move |by_port| by_port.range((port, 0)..=(port, u32::MAX)))
            .filter_map(|(_, index)| self.table.at(*index))
    }

    /// Puts an entry in, found by its address from now on.
    pub(crate) fn insert(&mut self, entry: T) -> Key {
        let key = self.table.insert(entry);
        self.index_by_address(key.index());
        key
    }

    /// Lets `write` give an entry that only a snapshot has shown its address.
    pub(crate) fn reveal(&mut self, index: u32, write: impl FnOnce(&mut T)) {
        let Some(entry) = self.table.at_mut(index) else {
            return;
        };
        debug_assert_eq!(entry.address(), 0, "an address is revealed once");
        write(entry);
        self.index_by_address(index);
    }

    /// Makes an entry with this tuple found by it, or no longer.
    pub(crate) fn find_by_tuple(&mut self, index: u32, tuple: Tuple, found: bool) {
        let Some(entry) = self.table.at_mut(index) else {
            return;
        };
        *entry.indexed() = found;
        let hash = self.hasher.hash_one(tuple);
        if found {
            self.by_tuple.insert(hash, index);
        } else {
            self.by_tuple.remove(hash, index);
        }
        if let Some(by_port) = &mut self.by_port {
            let place = (tuple.local_port(), index);
            if found {
                by_port.insert(place);
            } else {
                by_port.remove(&place);
            }
        }
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let mut entry = self.table.remove(index)?;
        if entry.address() != 0 {
            self.by_address
                .remove(self.hasher.hash_one(entry.address()), index);
        }
        if *entry.indexed()
            && let Some(tuple) = entry.tuple()
        {
            self.by_tuple.remove(self.hasher.hash_one(tuple), index);
            if let Some(by_port) = &mut self.by_port {
                by_port.remove(&(tuple.local_port(), index));
            }
        }
        Some(entry)
    }

    fn index_by_address(&mut self, index: u32) {
        let address = self.table.at(index).map_or(0, Entry::address);
        if address != 0 {
            self.by_address.insert(self.hasher.hash_one(address), index);
        }
    }
}
