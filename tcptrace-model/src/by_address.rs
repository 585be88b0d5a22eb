//! Owns `ByAddress`: values by the address of a socket, of which the oldest can be told.

use alloc::collections::VecDeque;

use hashbrown::HashMap;

/// Values by the address of a `struct sock`. Unlike a table's places, addresses are all that some inputs
/// have, and of these values there are few.
#[derive(Debug)]
pub(crate) struct ByAddress<T> {
    /// Each with the number that it came with.
    values: HashMap<u64, (u64, T)>,
    /// Addresses and numbers, the oldest first; some are gone.
    order: VecDeque<(u64, u64)>,
    /// How many have been put in.
    inserted: u64,
}

impl<T> ByAddress<T> {
    pub(crate) fn new() -> Self {
        Self {
            values: HashMap::new(),
            order: VecDeque::new(),
            inserted: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(crate) fn get(&self, sk: u64) -> Option<&T> {
        self.values.get(&sk).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, sk: u64) -> Option<&mut T> {
        self.values.get_mut(&sk).map(|(_, value)| value)
    }

    /// All of them, in no order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.values.values().map(|(_, value)| value)
    }

    /// Puts a value in, as the newest, in place of what was at its address.
    pub(crate) fn insert(&mut self, sk: u64, value: T) {
        self.inserted += 1;
        self.values.insert(sk, (self.inserted, value));
        self.order.push_back((sk, self.inserted));
        if self.order.len() > 2 * self.values.len() + 64 {
            let Self { values, order, .. } = self;
            order.retain(|(sk, number)| is_there(values, *sk, *number));
        }
    }

    pub(crate) fn remove(&mut self, sk: u64) -> Option<T> {
        self.values.remove(&sk).map(|(_, value)| value)
    }

    /// The value at this address; where there is none, a new one.
    pub(crate) fn get_or_default(&mut self, sk: u64) -> &mut T
    where
        T: Default,
    {
        if !self.values.contains_key(&sk) {
            self.insert(sk, T::default());
        }
        let number = self.inserted;
        let known = self.values.entry(sk);
        &mut known.or_insert_with(|| (number, T::default())).1
    }

    /// Takes the oldest out, with its address.
    pub(crate) fn take_oldest(&mut self) -> Option<(u64, T)> {
        while let Some((sk, number)) = self.order.pop_front() {
            if is_there(&self.values, sk, number) {
                return Some((sk, self.remove(sk)?));
            }
        }
        None
    }
}

fn is_there<T>(values: &HashMap<u64, (u64, T)>, sk: u64, number: u64) -> bool {
    values.get(&sk).is_some_and(|(known, _)| *known == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_what_was_put_in_again_is_new() {
        let mut values = ByAddress::new();
        for sk in [1, 2, 3] {
            values.insert(sk, sk * 10);
        }
        *values.get_or_default(3) += 1;
        values.insert(1, 11);
        values.remove(2);
        assert_eq!(values.take_oldest(), Some((3, 31)));
        assert_eq!(values.take_oldest(), Some((1, 11)));
        assert_eq!(values.take_oldest(), None);
        assert!(values.is_empty());
    }

    #[test]
    fn addresses_that_come_and_go_leave_nothing_behind() {
        let mut values = ByAddress::new();
        values.insert(0, 0);
        for round in 1..10_000 {
            values.insert(1, round);
        }
        assert_eq!(values.len(), 2);
        assert!(values.order.len() <= 2 * values.len() + 64);
        assert_eq!(values.take_oldest(), Some((0, 0)));
    }
}
