//! Owns `Ends`: the table of connections, found by address of the socket or by tuple.

use crate::{
    connection::End,
    indexed::{Entry, Indexed},
    tuple::Tuple,
};

/// All ends of connections that are known.
pub(crate) type Ends = Indexed<End>;

impl Entry for End {
    fn address(&self) -> u64 {
        self.socket.sk
    }

    fn netns(&self) -> Option<u32> {
        self.socket.netns
    }

    fn tuple(&self) -> Option<Tuple> {
        Self::tuple(self)
    }

    fn indexed(&mut self) -> &mut bool {
        &mut self.indexed
    }
}

impl Indexed<End> {
    /// The other end of the connection of `end`; `None` when it is not known, or several could be it
    /// or could have been.
    pub(crate) fn opposite(&self, end: &End) -> Option<u32> {
        let tuple = end.tuple()?;
        if tuple.is_own_peer() || end.has_twin {
            return None;
        }
        let (mut near, mut far) = (None, None);
        for (index, other) in self.having(tuple.reversed()) {
            if other.socket.netns == end.socket.netns {
                near = Some(near.map_or(index, |known: u32| known.min(index)));
            } else if !tuple.stays_in_namespace() && !other.has_twin {
                far = Some(index);
            }
        }
        near.or(far)
    }

    /// Makes an end found by its tuple from now on. Nobody else has that tuple in its namespace.
    pub(crate) fn index_by_tuple(&mut self, index: u32, tuple: Tuple) {
        let twin = self.having(tuple).map(|(twin, _)| twin).next();
        if let Some(twin) = twin.filter(|_| !tuple.stays_in_namespace()) {
            // Should there be more than one, they have each other.
            for index in [twin, index] {
                if let Some(end) = self.at_mut(index) {
                    end.has_twin = true;
                }
            }
        }
        self.find_by_tuple(index, tuple, true);
    }
}
