//! Owns the stories: joins the two ends of a connection that are both on this host.

use alloc::{boxed::Box, collections::VecDeque};

use crate::{
    Connection, Finding, PeerEnd, Story, TcpState, Tracker,
    connection::End,
    table::{Key, Table},
};

/// How long a story waits for the other end, in ns: longer than a FIN takes, and shorter than a person
/// waits for the story.
const SECOND_WITHIN_NS: u64 = 1_000_000_000;

/// Stories that wait at once, at most.
const MOST: usize = 1 << 16;

/// Stories of which one end has ended, and the other has not.
#[derive(Debug)]
pub(crate) struct Stories {
    waiting: Table<Waiting>,
    /// When each began to wait; some have been told since.
    since: VecDeque<(u64, Key)>,
}

#[derive(Debug)]
struct Waiting {
    first: Box<Connection>,
    /// The other end.
    second: Key,
}

impl Stories {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Table::new(),
            since: VecDeque::new(),
        }
    }

    /// Whether the first has waited long enough.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        self.since
            .front()
            .is_some_and(|(since_ns, _)| now_ns >= since_ns.saturating_add(SECOND_WITHIN_NS))
            || self.since.len() > MOST
    }
}

impl Tracker {
    /// The other end of the connection of `end`, when it is on this host too.
    pub(crate) fn peer_of(&self, end: &End) -> Option<PeerEnd> {
        if let Some(peer) = &end.peer {
            return Some(**peer);
        }
        if let Some(waiting) = end.story.and_then(|story| self.stories.waiting.get(story)) {
            return Some(waiting.first.as_peer());
        }
        self.other_end(end)
            .and_then(|key| self.ends.get(key))
            .map(End::as_peer)
    }

    /// An end has been told: so is its story, unless the other end may still belong to it.
    pub(crate) fn tell_or_keep_story(&mut self, end: &End, connection: Connection) {
        if let Some(waiting) = end
            .story
            .and_then(|story| self.stories.waiting.remove_key(story))
        {
            let (first, second) = if connection.ts_ns < waiting.first.ts_ns {
                (connection, *waiting.first)
            } else {
                (*waiting.first, connection)
            };
            return self.tell_story(first, Some(second), None);
        }
        let other = if end.peer.is_some() {
            None
        } else {
            self.other_end(end)
        };
        let Some(second) = other else {
            return self.tell_story(connection, None, None);
        };
        let since_ns = connection.ts_ns;
        let story = self.stories.waiting.insert(Waiting {
            first: Box::new(connection),
            second,
        });
        self.stories.since.push_back((since_ns, story));
        if let Some(end) = self.ends.get_mut(second) {
            end.story = Some(story);
        }
    }

    /// Tells the stories that have waited long enough; all when no time is given.
    pub(crate) fn tell_stories(&mut self, now_ns: Option<u64>) {
        while now_ns.is_none_or(|now_ns| self.stories.is_due(now_ns))
            && let Some((_, story)) = self.stories.since.pop_front()
        {
            let Some(waiting) = self.stories.waiting.remove_key(story) else {
                continue;
            };
            let mut open = None;
            if let Some(end) = self.ends.get_mut(waiting.second) {
                end.story = None;
                end.peer = Some(Box::new(waiting.first.as_peer()));
                open = Some((end.as_peer(), end.state()));
            }
            self.tell_story(*waiting.first, None, open);
        }
    }

    /// The end that a story waits for is forgotten.
    pub(crate) fn without_second(&mut self, end: &End) {
        if let Some(waiting) = end
            .story
            .and_then(|story| self.stories.waiting.remove_key(story))
        {
            let open = Some((end.as_peer(), end.state()));
            self.tell_story(*waiting.first, None, open);
        }
    }

    /// The end that a story waits for has another place now.
    pub(crate) fn second_has_moved(&mut self, index: u32) {
        if let Some(key) = self.ends.key(index)
            && let Some(story) = self.ends.get(key).and_then(|end| end.story)
            && let Some(waiting) = self.stories.waiting.get_mut(story)
        {
            waiting.second = key;
        }
    }

    /// The other end, when it has not been told yet.
    fn other_end(&self, end: &End) -> Option<Key> {
        let index = self.ends.opposite(end)?;
        let other = self.ends.at(index)?;
        // One that is in a story already is another connection's.
        if other.story.is_some() || other.peer.is_some() {
            return None;
        }
        self.ends.key(index)
    }

    fn tell_story(
        &mut self,
        first: Connection,
        second: Option<Connection>,
        open_peer: Option<(PeerEnd, TcpState)>,
    ) {
        self.tell(Finding::Story(Box::new(Story {
            first,
            second,
            open_peer,
        })));
    }
}

impl Connection {
    /// This end for the other one to name.
    fn as_peer(&self) -> PeerEnd {
        PeerEnd {
            sk: self.socket.sk,
            netns: self.socket.netns,
            owner: self.owner,
        }
    }
}
