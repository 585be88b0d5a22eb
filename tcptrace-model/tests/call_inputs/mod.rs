//! Inputs about bind(), listen() and connect() that make little sense, and what holds of any call that
//! is told to have failed.

use std::num::NonZeroU64;

use proptest::{option, prelude::*, sample::select};
use tcptrace_model::{
    CallFailed, Certainty, HolderFound, Input, ListedHolder, Listing, SocketCall, Surroundings,
    TcpState,
    conflict::{Asked, Asker, BindSysctls, Call, Family, Holder, PortUse, Remedy, Rule},
};

use crate::{addresses, netns, phases, sockets, states, task};

pub(crate) fn cookies() -> impl Strategy<Value = Option<NonZeroU64>> {
    select(vec![0, 0, 0, 1, 2]).prop_map(NonZeroU64::new)
}

fn askers() -> impl Strategy<Value = Asker> {
    let state = prop_oneof![4 => Just(TcpState::Close), 1 => states()];
    let family = select(vec![Family::V4, Family::V6]);
    let range = select(vec![None, Some((4000, 4001)), Some((9, 3))]);
    let flags = any::<[bool; 8]>();
    let may = any::<Option<bool>>();
    (family, state, addresses(), flags, 0..3_u32, range, may).prop_map(
        |(family, state, local, flags, number, port_range, may_bind_privileged)| Asker {
            family,
            state,
            local,
            reuseaddr: flags[0],
            force_reuse: flags[1] && flags[2] && flags[3],
            reuseport: flags[1],
            reuseport_group: flags[2],
            v6only: flags[3],
            freebind: flags[4],
            transparent: flags[5],
            bind_address_no_port: flags[6],
            device: u32::from(flags[7]),
            uid: number,
            port_range,
            may_bind_privileged,
        },
    )
}

pub(crate) fn calls() -> impl Strategy<Value = Input> {
    let to = (
        select(vec![2, 10, 0, 77]),
        select(vec![16, 28, 1]),
        addresses(),
    )
        .prop_map(|(family, len, addr)| Asked {
            family,
            len,
            addr,
            scope: 0,
        });
    let error = select(vec![0, 0, 0, 4, 13, 22, 98, 98, 98, 99, 99, 111, 115, 512]);
    let listing = select(vec![Listing::None, Listing::Whole, Listing::Cut]);
    let before = (
        select(Call::ALL.to_vec()),
        error,
        askers(),
        option::of(to),
        any::<bool>(),
    );
    let socket = (0..6_u64, cookies(), netns(), task());
    let after = (
        addresses(),
        addresses(),
        option::of(0..6_u64),
        listing,
        any::<bool>(),
    );
    (before, socket, after).prop_map(|(before, socket, after)| {
        let (call, error, asker, to, dated) = before;
        let (sk, cookie, netns, task) = socket;
        let (local, remote, guilty, listing, refused_by_lsm) = after;
        Input::Call(SocketCall {
            ts_ns: 0,
            began_ns: dated.then_some(0),
            call,
            error,
            sk,
            cookie,
            netns,
            cgroup_id: None,
            task,
            asker,
            asked: to,
            backlog: 0,
            local,
            remote,
            nonblocking: false,
            refused_by_lsm: refused_by_lsm && error == 13,
            guilty,
            listing,
        })
    })
}

pub(crate) fn holders() -> impl Strategy<Value = Input> {
    let phase = option::of(phases());
    let known = any::<[Option<bool>; 5]>();
    let rest = (any::<bool>(), 0..2_u32, option::of(any::<u64>()));
    (0..6_u64, sockets(), states(), phase, known, rest).prop_map(
        |(asker, socket, state, minisocket, known, (force_reuse, device, expires_ns))| {
            Input::Holder(ListedHolder {
                ts_ns: 0,
                asker,
                holder: Holder {
                    sk: socket.sk,
                    cookie: socket.cookie,
                    state,
                    minisocket,
                    local: socket.local,
                    remote: socket.remote,
                    reuseaddr: known[0],
                    reuseport: known[1],
                    force_reuse,
                    v6only: known[2],
                    uid: known[3].map(u32::from),
                    device,
                    port_bound: known[3],
                    timestamps: known[4],
                },
                netns: socket.netns,
                expires_ns,
            })
        },
    )
}

pub(crate) fn surroundings() -> impl Strategy<Value = Input> {
    let counts = any::<[u8; 14]>().prop_map(|counts| counts.map(u32::from));
    let ports = (counts.clone(), counts, 0..3_u32, option::of(addresses())).prop_map(
        |(by_state, to_destination, held, destination)| PortUse {
            ts_ns: 0,
            range: (4000, 4001),
            reserved: 0,
            held,
            by_state,
            to_destination,
            destination,
        },
    );
    (0..6_u64, 1..3_u32, option::of(ports)).prop_map(|(sk, netns, ports)| {
        Input::Surroundings(Surroundings {
            ts_ns: 0,
            netns,
            sk,
            sysctls: BindSysctls::default(),
            ports,
        })
    })
}

pub(crate) fn is_an_honest_failure(told: &CallFailed) -> Result<(), TestCaseError> {
    if told.certainty == Certainty::Exact {
        prop_assert!(told.doubts.is_empty(), "{told:?}");
        prop_assert_ne!(told.rule, Rule::Unknown);
    }
    prop_assert!(told.holders.len() <= CallFailed::MOST_HOLDERS);
    prop_assert!(told.holders.len() <= told.holders_total);
    prop_assert!(told.blocking_total <= told.holders_total);
    let blocking = told.holders.iter().filter(|found| found.blocks).count();
    prop_assert_eq!(blocking, told.blocking_total.min(told.holders.len()));
    prop_assert!(told.holders.is_sorted_by_key(|found| !found.blocks));
    for found in &told.holders {
        prop_assert_eq!(found.blocks, found.rule.is_some());
        prop_assert!(found.frees_at_ns.is_none() || found.holder.minisocket.is_some());
        prop_assert!(told.call.sk == 0 || found.holder.sk != told.call.sk);
    }
    for remedy in &told.remedies {
        if let Remedy::CloseHolders(places) = remedy {
            prop_assert!(places.iter().all(|place| *place < told.holders.len()));
        }
    }
    if told.free_at_ns.is_some() {
        prop_assert!(told.blocking_total > 0);
        let waiting = |found: &HolderFound| found.frees_at_ns.is_some();
        prop_assert!(
            told.holders
                .iter()
                .filter(|found| found.blocks)
                .all(waiting)
        );
    }
    Ok(())
}
