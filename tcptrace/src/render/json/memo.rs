//! Owns what lines have in common that are told of the same socket, or while the same task is on the CPU: the members
//! are written once, and copied as long as nothing that they tell has changed.

use serde::{Serialize, Serializer};
use tcptrace_model::{Owner, Socket, Task};

use super::{
    fields::{CurrentTask, Options, SocketFields},
    writer,
};

/// How many sockets and tasks are remembered; powers of two. Under load a few of each make all the events.
const SOCKETS: usize = 256;
const TASKS: usize = 16;

/// The members that tell of sockets.
pub(super) struct Sockets(Slots<(Socket, Option<Owner>)>);

/// Those that tell of tasks.
pub(super) struct Tasks(Slots<Task>);

/// Members that have been written before, to be copied into a structure.
#[derive(Clone, Copy)]
pub(super) struct Written<'a>(&'a [u8]);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // For our own writer, to which bytes without a name of their own are just that.
        serializer.serialize_bytes(self.0)
    }
}

/// What was written of each `K`, a slot for many of them.
struct Slots<K>(Vec<Slot<K>>);

struct Slot<K> {
    of: Option<K>,
    members: Vec<u8>,
}

impl Default for Sockets {
    fn default() -> Self {
        Self(Slots::new(SOCKETS))
    }
}

impl Sockets {
    /// What identifies a socket, who owns it, and its options.
    ///
    /// # Errors
    /// When a value refuses to be serialized.
    pub(super) fn written(
        &mut self,
        socket: &Socket,
        owner: Option<&Owner>,
    ) -> Result<Written<'_>, writer::Refused> {
        #[derive(Serialize)]
        struct Members<'a> {
            #[serde(rename = "")]
            socket: SocketFields<'a>,
            #[serde(rename = "")]
            options: Options,
        }
        // Addresses of sockets lie some thousand bytes apart.
        let place = (socket.sk.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize;
        self.0
            .written(place, (*socket, owner.copied()), || Members {
                socket: SocketFields::of_socket(socket, owner),
                options: Options::of(socket),
            })
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self(Slots::new(TASKS))
    }
}

impl Tasks {
    /// The task on the CPU.
    ///
    /// # Errors
    /// Likewise.
    pub(super) fn written(&mut self, task: &Task) -> Result<Written<'_>, writer::Refused> {
        #[derive(Serialize)]
        struct Member<'a> {
            current: CurrentTask<'a>,
        }
        self.0.written(task.tid as usize, *task, || Member {
            current: CurrentTask::of(task),
        })
    }
}

impl<K: Copy + PartialEq> Slots<K> {
    fn new(number: usize) -> Self {
        let empty = || Slot {
            of: None,
            members: Vec::new(),
        };
        Self((0..number).map(|_| empty()).collect())
    }

    /// What is written of `key`, whose slot `place` tells, which may be any number.
    fn written<T: Serialize>(
        &mut self,
        place: usize,
        key: K,
        fields: impl FnOnce() -> T,
    ) -> Result<Written<'_>, writer::Refused> {
        let index = place & (self.0.len() - 1);
        let slot = &mut self.0[index];
        if slot.of != Some(key) {
            slot.of = None;
            slot.members.clear();
            writer::write_members(&mut slot.members, &fields())?;
            slot.of = Some(key);
        }
        Ok(Written(&slot.members))
    }
}

#[cfg(test)]
mod tests {
    use tcptrace_model::{Comm, OwnerSource, Process};

    use super::*;

    fn socket(sk: u64) -> Socket {
        Socket {
            sk,
            cookie: None,
            netns: Some(1),
            cgroup_id: None,
            uid: 0,
            local: "127.0.0.1:8000".parse().unwrap(),
            remote: "127.0.0.1:40000".parse().unwrap(),
            reuseaddr: false,
            reuseport: false,
        }
    }

    fn text(written: Result<Written<'_>, writer::Refused>) -> String {
        String::from_utf8(written.unwrap().0.to_vec()).unwrap()
    }

    #[test]
    fn what_has_changed_is_written_anew() {
        let mut memo = Sockets::default();
        let owner = Owner {
            process: Process {
                pid: 7,
                comm: Comm(*b"nginx\0\0\0\0\0\0\0\0\0\0\0"),
            },
            source: OwnerSource::Accept,
        };
        let first = text(memo.written(&socket(64), None));
        assert!(first.starts_with(r#""netns":1,"#), "{first}");
        assert!(first.ends_with(r#""reuseport":false,"#), "{first}");
        assert_eq!(text(memo.written(&socket(64), None)), first);

        let told = text(memo.written(&socket(64), Some(&owner)));
        assert!(told.contains(r#""comm":"nginx""#), "{told}");
        let closed = Socket {
            remote: "127.0.0.1:40001".parse().unwrap(),
            ..socket(64)
        };
        assert!(text(memo.written(&closed, Some(&owner))).contains("40001"));
        assert_eq!(text(memo.written(&socket(64), None)), first);
    }

    #[test]
    fn whoever_shares_a_slot_is_not_taken_for_the_other() {
        let (mut sockets, mut tasks) = (Sockets::default(), Tasks::default());
        let of = |tid: u32| Task {
            pid: tid,
            tid,
            comm: Comm([0; 16]),
        };
        let same_slot = 1 + u32::try_from(TASKS).unwrap();
        for tid in [1, same_slot, 1, 2] {
            let expected = format!(r#""current":{{"pid":{tid},"tid":{tid},"comm":""}},"#);
            assert_eq!(text(tasks.written(&of(tid))), expected);
        }
        for sk in (0..4 * SOCKETS as u64).map(|number| number * 2432) {
            let written = text(sockets.written(&socket(sk), None));
            let address = format!(r#""skaddr":"0x{sk:x}","#);
            assert_eq!(written.contains(&address), sk != 0, "{written}");
        }
    }
}
