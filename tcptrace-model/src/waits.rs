//! Owns `Waits`: the table of minisockets, found by address or by tuple.

use core::ops::{Deref, DerefMut};

use crate::{
    Minisocket,
    indexed::{Entry, Indexed},
    table::Key,
    time_wait::Wait,
    tuple::Tuple,
};

/// All minisockets that are known. Found by tuple are those that only a snapshot has shown and those
/// that have just been entered; while [`Waits::all_by_tuple`] or [`Waits::all_by_port`] says so, all.
#[derive(Debug)]
pub(crate) struct Waits {
    table: Indexed<Wait>,
    all_by_tuple: bool,
    all_by_port: bool,
}

impl Entry for Wait {
    fn address(&self) -> u64 {
        self.minisocket.tw
    }

    fn netns(&self) -> Option<u32> {
        self.minisocket.netns
    }

    fn tuple(&self) -> Option<Tuple> {
        Self::tuple(self)
    }

    fn indexed(&mut self) -> &mut bool {
        &mut self.indexed
    }
}

impl Deref for Waits {
    type Target = Indexed<Wait>;

    fn deref(&self) -> &Self::Target {
        &self.table
    }
}

impl DerefMut for Waits {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.table
    }
}

impl Waits {
    pub(crate) fn new() -> Self {
        Self {
            table: Indexed::new(),
            all_by_tuple: false,
            all_by_port: false,
        }
    }

    /// Makes all minisockets found by tuple, or no more than need be. Most come and go by their
    /// address alone, and a second index of a million costs as much as the first.
    pub(crate) fn all_by_tuple(&mut self, all: bool) {
        self.all_by_tuple = all;
        for index in self.table.places() {
            self.update_tuple(index);
        }
    }

    /// Makes all minisockets found by their local port, or none.
    pub(crate) fn all_by_port(&mut self, all: bool) {
        if self.all_by_port != all {
            self.all_by_port = all;
            for index in self.table.places() {
                self.update_tuple(index);
            }
            self.table.by_port(all);
        }
    }

    /// Puts a minisocket in.
    pub(crate) fn insert(&mut self, wait: Wait) -> Key {
        let key = self.table.insert(wait);
        self.update_tuple(key.index());
        key
    }

    /// Gives a minisocket that only a snapshot has shown its address, and the rest that a snapshot
    /// does not show.
    pub(crate) fn reveal(&mut self, index: u32, shown: &Minisocket) {
        self.table.reveal(index, |wait| wait.minisocket = *shown);
        self.update_tuple(index);
    }

    /// Notes that a minisocket was told to be entered, or never will be; whatever takes part in that
    /// is joined to it by now.
    pub(crate) fn is_told(&mut self, index: u32) {
        if let Some(wait) = self.table.at_mut(index) {
            wait.told = true;
            self.update_tuple(index);
        }
    }

    fn update_tuple(&mut self, index: u32) {
        let Some(wait) = self.table.at(index) else {
            return;
        };
        let all = self.all_by_tuple || self.all_by_port;
        let needed = all || !wait.told || wait.minisocket.tw == 0;
        if let Some(tuple) = wait.tuple().filter(|_| needed != wait.indexed) {
            self.table.find_by_tuple(index, tuple, needed);
        }
    }
}
