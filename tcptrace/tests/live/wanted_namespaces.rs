//! A set of network namespaces that changes while it is traced: every kind of record from those in it, and
//! none from any other, whichever hooks it comes from.

use std::fs::File;

use anyhow::{Context, Result, bail, ensure};
use tcptrace::bpf::calls::Calls;
use tcptrace::bpf::filters::{Family as Wanted, Filters, NetnsFilter};
use tcptrace::bpf::hooks::Backend;
use tcptrace::bpf::netns_set::NetnsSet;
use tcptrace::failure::Failure;
use tcptrace_common::PortSet;
use tcptrace_model::{Input, MinisocketEnded, MinisocketEntered, Transition};

use crate::endings::{close_in_order, expect_reset};
use crate::event::State;
use crate::netns::Netns;
use crate::sockets::{Family, Pair, Socket};
use crate::watch::Watch;
use crate::{Scenario, kernel_table, netns, ports};

/// Which hooks show minisockets, and which calls.
const HOOKS: [(Backend, Calls); 3] = [
    (Backend::Fentry, Calls::Fentry),
    (Backend::Timer, Calls::Fentry),
    (Backend::Timer, Calls::Syscalls),
];

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("filters: namespaces that come and go", come_and_go),
        Scenario::new("filters: namespaces and all else at once", all_at_once),
    ]
}

/// How many of each kind.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    entered: usize,
    ended: usize,
    accepted: usize,
    resets: usize,
    calls: usize,
}

/// Every program with every filter on: the most that verifiers have to follow.
fn all_at_once() -> Result<()> {
    for (backend, calls) in HOOKS {
        let port = ports::next();
        let filters = Filters {
            ports: [PortSet::Either, PortSet::Local, PortSet::Remote]
                .map(|set| (set, port))
                .to_vec(),
            pid: Some(std::process::id()),
            uid: Some(0),
            netns: NetnsFilter::Changing,
            cgroup_id: Some(1 << 40),
            family: Some(Wanted::Ipv4),
        };
        if let Some(mut watch) = start(filters, backend, calls)? {
            netns::with_new(|_| one_of_each())?;
            let inputs = watch.until(|_| true)?;
            ensure!(inputs.is_empty(), "{backend:?}, {calls:?}: {inputs:#?}");
        }
    }
    Ok(())
}

/// `None` where this kernel does not have these hooks.
fn start(filters: Filters, backend: Backend, calls: Calls) -> Result<Option<Watch>> {
    match Watch::with(filters, backend, calls) {
        Ok(watch) => Ok(Some(watch)),
        // There are hooks for every kernel, so the others have to be there.
        Err(Failure::Unsupported(why)) if calls == Calls::Fentry => {
            ensure!(why.contains("fentry") || why.contains("fexit"), "{why}");
            Ok(None)
        }
        Err(failure) => bail!("{backend:?}, {calls:?}: {failure}"),
    }
}

impl Counts {
    fn all_reach(&self, other: &Self) -> bool {
        self.entered >= other.entered
            && self.ended >= other.ended
            && self.accepted >= other.accepted
            && self.resets >= other.resets
            && self.calls >= other.calls
    }
}

fn come_and_go() -> Result<()> {
    for (backend, calls) in HOOKS {
        let filters = Filters {
            netns: NetnsFilter::Changing,
            ..Filters::default()
        };
        if let Some(watch) = start(filters, backend, calls)? {
            only_wanted(watch).with_context(|| format!("{backend:?}, {calls:?}"))?;
        }
    }
    Ok(())
}

fn only_wanted(mut watch: Watch) -> Result<()> {
    let set = watch.wanted_namespaces().context("there must be a set")?;
    netns::with_new(|_| one_of_each())?;
    let first = netns::with_new(|it| come_go_and_come(&set, it))?;
    let second = netns::with_new(|it| come_go_and_come(&set, it))?;
    let wanted = [first.inode, second.inode];
    let seen_ports = [&first.seen_ports[..], &second.seen_ports].concat();

    let scenes = seen_ports.len();
    let expected = Counts {
        entered: scenes,
        ended: scenes,
        accepted: 2 * scenes,
        resets: 2 * scenes,
        calls: 5 * scenes,
    };
    let inputs = watch
        .until(|inputs| counts(inputs).all_reach(&expected))
        .with_context(|| format!("expected {expected:?}"))?;
    ensure!(
        counts(&inputs) == expected,
        "expected {expected:?}, not {:?}",
        counts(&inputs)
    );
    for input in &inputs {
        ensure!(
            netns_of(input).is_none_or(|inode| wanted.contains(&inode)),
            "wanted were {wanted:?}: {input:#?}"
        );
        ensure!(
            ports_of(input).is_none_or(|ports| ports.iter().any(|port| seen_ports.contains(port))),
            "its namespace was not wanted then: {input:#?}"
        );
    }
    let holders = inputs
        .iter()
        .filter(|input| matches!(input, Input::Holder(_)))
        .count();
    ensure!(holders >= scenes, "{holders} holders of ports");
    ensure!(
        !inputs
            .iter()
            .any(|input| matches!(input, Input::Snapshot(_))),
        "what has just been made has no past"
    );
    // The namespaces have been there until now: the kernel may give their numbers to others afterwards.
    for happened in [first, second] {
        set.remove(happened.inode)?;
        drop(happened.held);
    }
    Ok(())
}

/// What has happened in a namespace.
struct Happened {
    inode: u32,
    /// Keeps the namespace.
    held: File,
    /// The ports that were used while it was wanted.
    seen_ports: Vec<u16>,
}

/// Does one of each while this namespace is wanted, while it is not, and while it is again.
fn come_go_and_come(set: &NetnsSet, it: &Netns) -> Result<Happened> {
    let inode = it.inode;
    let held = File::open(&it.path)?;
    set.add(inode)?;
    let before = one_of_each()?;
    set.remove(inode)?;
    // It is not in the set any more, which is what is asked for.
    set.remove(inode)?;
    one_of_each()?;
    set.add(inode)?;
    set.add(inode)?;
    let after = one_of_each()?;
    Ok(Happened {
        inode,
        held,
        seen_ports: vec![before, after],
    })
}

/// Something of each kind of record: a connection that leaves a minisocket, one that ends this and ends by a
/// RST, and a bind() that fails beside others that do not. Returns the port of the listener.
fn one_of_each() -> Result<u16> {
    let [port, from] = [ports::next(), ports::next()];
    let at = Family::V4.listens_on(port);
    let listener = Family::V4.listener(port)?;
    let connect = || -> Result<Pair> {
        let client = Family::V4.client()?;
        client.bind(Family::V4.connects_to(from))?;
        client.connect(at)?;
        let server = listener.accept()?;
        Ok(Pair { client, server })
    };
    let Pair { client, server } = connect()?;
    close_in_order(server, &client)?;
    drop(client);
    kernel_table::wait_for_state(port, from, State::TIME_WAIT)?;
    kernel_table::wait_until_closed(&[from])?;

    let Pair { client, server } = connect()?;
    client.reset_on_close()?;
    drop(client);
    expect_reset(&server)?;
    ensure!(Socket::new(false)?.bind(at).is_err(), "it is held");
    Ok(port)
}

fn counts(inputs: &[Input]) -> Counts {
    let count = |is: fn(&Input) -> bool| inputs.iter().filter(|input| is(input)).count();
    Counts {
        entered: count(|input| matches!(input, Input::MinisocketEntered(_))),
        ended: count(|input| matches!(input, Input::MinisocketEnded(_))),
        accepted: count(|input| matches!(input, Input::Accepted(_))),
        resets: count(|input| matches!(input, Input::Reset(_))),
        calls: count(|input| matches!(input, Input::Call(_))),
    }
}

fn netns_of(input: &Input) -> Option<u32> {
    match input {
        Input::Transition(transition) => transition.socket.netns,
        Input::MinisocketEntered(entered) => entered.minisocket.netns,
        Input::MinisocketEnded(ended) => ended.minisocket.netns,
        Input::Call(call) => call.netns,
        Input::Holder(listed) => listed.netns,
        _ => None,
    }
}

/// The ports by which the listener that it belongs to can be told.
fn ports_of(input: &Input) -> Option<[u16; 2]> {
    match input {
        Input::Transition(Transition { socket, .. }) => {
            Some([socket.local.port(), socket.remote.port()])
        }
        Input::MinisocketEntered(MinisocketEntered { minisocket, .. })
        | Input::MinisocketEnded(MinisocketEnded { minisocket, .. }) => {
            Some([minisocket.local.port(), minisocket.remote.port()])
        }
        Input::Holder(listed) => Some([listed.holder.local.port(), listed.holder.remote.port()]),
        _ => None,
    }
}
