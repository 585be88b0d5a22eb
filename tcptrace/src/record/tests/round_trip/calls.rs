//! Inputs about calls, with any value in each field.

use proptest::{
    option,
    prelude::{BoxedStrategy, Strategy, any, prop_oneof},
    sample::select,
};
use tcptrace_model::{
    Input, ListedHolder, Listing, SocketCall, Surroundings,
    conflict::{Asked, Asker, BindSysctls, Call, Family, Holder, PortUse},
};

use super::{address, phase, socket, state, task};

pub(super) fn input() -> BoxedStrategy<Input> {
    let listed = (
        any::<(u64, u64)>(),
        holder(),
        any::<(Option<u32>, Option<u64>)>(),
    );
    prop_oneof![
        listed.prop_map(|((ts_ns, asker), holder, (netns, expires_ns))| {
            Input::Holder(ListedHolder {
                ts_ns,
                asker,
                holder,
                netns,
                expires_ns,
            })
        }),
        (any::<(u64, u32, u64)>(), sysctls(), option::of(port_use())).prop_map(
            |((ts_ns, netns, sk), sysctls, ports)| {
                Input::Surroundings(Surroundings {
                    ts_ns,
                    netns,
                    sk,
                    sysctls,
                    ports,
                })
            }
        ),
        call().prop_map(Input::Call),
    ]
    .boxed()
}

fn call() -> BoxedStrategy<SocketCall> {
    let what = (select(Call::ALL), any::<(Option<u64>, u16, i32)>());
    let asked =
        (any::<(u16, u32, u32)>(), address()).prop_map(|((family, len, scope), addr)| Asked {
            family,
            len,
            addr,
            scope,
        });
    let listing = select(&[Listing::None, Listing::Whole, Listing::Cut][..]);
    let after = (any::<(bool, bool, Option<u64>)>(), listing, any::<u64>());
    (what, socket(), task(), asker(), option::of(asked), after)
        .prop_map(|(what, socket, task, asker, asked, after)| {
            let (call, (began_ns, error, backlog)) = what;
            let ((nonblocking, refused_by_lsm, guilty), listing, ts_ns) = after;
            SocketCall {
                ts_ns,
                began_ns,
                call,
                error,
                sk: socket.sk,
                cookie: socket.cookie,
                netns: socket.netns,
                cgroup_id: socket.cgroup_id,
                task,
                asker,
                asked,
                backlog,
                local: socket.local,
                remote: socket.remote,
                nonblocking,
                refused_by_lsm,
                guilty,
                listing,
            }
        })
        .boxed()
}

fn asker() -> BoxedStrategy<Asker> {
    let family = select(&[Family::V4, Family::V6][..]);
    let rest = any::<(u32, u32, Option<(u16, u16)>, Option<bool>)>();
    (family, state(), address(), any::<[bool; 8]>(), rest)
        .prop_map(|(family, state, local, flags, rest)| {
            let (device, uid, port_range, may_bind_privileged) = rest;
            Asker {
                family,
                state,
                local,
                reuseaddr: flags[0],
                force_reuse: flags[1],
                reuseport: flags[2],
                reuseport_group: flags[3],
                v6only: flags[4],
                freebind: flags[5],
                transparent: flags[6],
                bind_address_no_port: flags[7],
                device,
                uid,
                port_range,
                may_bind_privileged,
            }
        })
        .boxed()
}

fn holder() -> BoxedStrategy<Holder> {
    let known = any::<[Option<bool>; 5]>();
    let rest = any::<(bool, Option<u32>, u32)>();
    (socket(), state(), option::of(phase()), known, rest)
        .prop_map(|(socket, state, minisocket, known, rest)| {
            let (force_reuse, uid, device) = rest;
            Holder {
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
                uid,
                device,
                port_bound: known[3],
                timestamps: known[4],
            }
        })
        .boxed()
}

fn sysctls() -> BoxedStrategy<BindSysctls> {
    (any::<[bool; 4]>(), any::<(u16, (u16, u16), u32, u8)>())
        .prop_map(|(flags, numbers)| {
            let (unprivileged_port_start, port_range, reserved_in_range, tcp_tw_reuse) = numbers;
            BindSysctls {
                unprivileged_port_start,
                nonlocal_bind: flags[0],
                nonlocal_bind_v6: flags[1],
                port_range,
                reserved_in_range,
                autobind_reuse: flags[2],
                tcp_tw_reuse,
                tcp_timestamps: flags[3],
            }
        })
        .boxed()
}

fn port_use() -> BoxedStrategy<PortUse> {
    let numbers = any::<(u64, (u16, u16), u32, u32)>();
    let counts = any::<([u32; 14], [u32; 14])>();
    (numbers, counts, option::of(address()))
        .prop_map(|(numbers, (by_state, to_destination), destination)| {
            let (ts_ns, range, reserved, held) = numbers;
            PortUse {
                ts_ns,
                range,
                reserved,
                held,
                by_state,
                to_destination,
                destination,
            }
        })
        .boxed()
}
