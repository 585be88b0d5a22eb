//! What holds for any request in any world: what is decided does not depend on what is not known, and a
//! remedy that is offered helps.

use std::net::SocketAddr;

use proptest::{collection::vec, option, prelude::*, sample::select};
use tcptrace_model::{
    Phase, TcpState,
    conflict::{
        Address, Asker, BindSysctls, Call, Family, Holder, KernelVersion, PortUse, Remedy, Request,
        Rule, Verdict, World, blocks, decide, explain, port_range, remedies,
    },
};

use super::scene::{KERNELS, asked, asker, at, bound, unused};

const PORT: u16 = 8080;

/// A world that owns what it is made of.
#[derive(Clone, Debug)]
struct Case {
    request: Request,
    holders: Vec<Holder>,
    sysctls: BindSysctls,
    ports: Option<PortUse>,
    kernel: KernelVersion,
}

impl Case {
    fn with_world<T>(&self, what: impl FnOnce(&Request, &World<'_>) -> T) -> T {
        what(
            &self.request,
            &World {
                holders: &self.holders,
                sysctls: &self.sysctls,
                ports: self.ports,
                kernel: self.kernel,
            },
        )
    }

    fn verdict(&self) -> Verdict {
        self.with_world(decide)
    }
}

fn addresses() -> impl Strategy<Value = &'static str> {
    select(vec![
        "0.0.0.0",
        "10.0.0.1",
        "10.0.0.2",
        "127.0.0.6",
        "[::]",
        "[::ffff:0.0.0.0]",
        "[::ffff:10.0.0.1]",
        "[fd00::1]",
        "[fd00::2]",
    ])
}

fn at_port(address: &str, port: u16) -> SocketAddr {
    at(&format!("{address}:{port}"))
}

fn holders() -> impl Strategy<Value = Holder> {
    let states = select(vec![
        TcpState::Close,
        TcpState::Listen,
        TcpState::Established,
        TcpState::CloseWait,
        TcpState::FinWait1,
        TcpState::TimeWait,
    ]);
    let flags = (
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
    );
    let uid = option::of(select(vec![0, 1000, 2000]));
    (addresses(), states, flags, uid, 0..3_u32, 1..4_u16).prop_map(
        |(address, state, (reuseaddr, reuseport, v6only, timestamps), uid, device, peer)| {
            let local = at_port(address, PORT);
            let is_connected = !matches!(state, TcpState::Close | TcpState::Listen);
            let is_minisocket = state == TcpState::TimeWait;
            let remote = SocketAddr::new(local.ip(), if is_connected { peer } else { 0 });
            Holder {
                state,
                minisocket: is_minisocket.then_some(Phase::TimeWait),
                local,
                remote,
                reuseaddr,
                reuseport,
                v6only: if local.is_ipv4() { Some(false) } else { v6only },
                uid: uid.filter(|_| !is_minisocket),
                device: device / 2,
                port_bound: (!is_minisocket).then_some(!is_connected),
                timestamps: timestamps.filter(|_| is_minisocket),
                ..bound("127.0.0.1:1")
            }
        },
    )
}

fn askers(local: SocketAddr) -> impl Strategy<Value = Asker> {
    let flags = any::<[bool; 5]>();
    let state = select(vec![
        TcpState::Close,
        TcpState::Close,
        TcpState::Close,
        TcpState::Established,
        TcpState::Listen,
    ]);
    (flags, 0..8_u32, state, option::of(any::<bool>())).prop_map(
        move |([reuseaddr, reuseport, v6only, freebind, other], device, state, may_bind)| Asker {
            family: if local.is_ipv4() {
                Family::V4
            } else {
                Family::V6
            },
            state,
            local,
            reuseaddr,
            reuseport,
            v6only,
            freebind,
            device: device / 7,
            uid: if other { 2000 } else { 1000 },
            may_bind_privileged: may_bind,
            ..asker("0.0.0.0:0")
        },
    )
}

fn requests() -> impl Strategy<Value = Request> {
    let calls = select(Call::ALL.to_vec());
    let ports = select(vec![PORT, PORT, PORT, 0, 80]);
    let own_ports = select(vec![0, 0, PORT]);
    let known = select(vec![
        None,
        Some(Address::Local),
        Some(Address::Local),
        Some(Address::Foreign),
    ]);
    (calls, addresses(), ports, own_ports, known, 1..4_u16).prop_flat_map(
        |(call, address, port, own_port, known, peer)| {
            let any = if address.starts_with('[') {
                "[::]"
            } else {
                "0.0.0.0"
            };
            let (local, to) = match call {
                Call::Bind => (at_port(any, own_port), Some(at_port(address, port))),
                Call::Listen => (at_port(address, own_port), None),
                Call::Connect => (at_port(address, own_port), Some(at_port(address, peer))),
            };
            askers(local).prop_map(move |asker| Request {
                call,
                asker,
                asked: to.map(|to| asked(&to.to_string())),
                address: known,
            })
        },
    )
}

fn counts() -> impl Strategy<Value = PortUse> {
    let destination = option::of((addresses(), 1..4_u16));
    (0..13_u32, 0..3_u32, any::<[u8; 4]>(), destination).prop_map(
        |(held, reserved, [listening, connected, waiting, bound], destination)| {
            let index = |state: TcpState| usize::from(state.number());
            let mut ports = PortUse {
                held: held.min(10),
                reserved,
                ..unused(40_000, 40_009)
            };
            ports.destination = destination.map(|(address, port)| at_port(address, port));
            ports.by_state[index(TcpState::Listen)] = u32::from(listening % 8);
            ports.by_state[index(TcpState::Close)] = u32::from(bound % 4);
            ports.to_destination[index(TcpState::Established)] = u32::from(connected % 12);
            ports.to_destination[index(TcpState::TimeWait)] = u32::from(waiting % 6);
            ports
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let sysctls = (any::<[bool; 3]>(), 0..3_u8).prop_map(
        |([autobind_reuse, nonlocal_bind, tcp_timestamps], tcp_tw_reuse)| BindSysctls {
            autobind_reuse,
            nonlocal_bind,
            tcp_timestamps,
            tcp_tw_reuse,
            port_range: (40_000, 40_009),
            ..BindSysctls::default()
        },
    );
    (
        requests(),
        vec(holders(), 0..4),
        sysctls,
        option::of(counts()),
        select(KERNELS.to_vec()),
    )
        .prop_map(|(request, holders, sysctls, ports, kernel)| Case {
            request,
            holders,
            sysctls,
            ports,
            kernel,
        })
}

/// `holder` with what is not known filled in by `bits`.
fn completed(holder: &Holder, bits: [bool; 5]) -> Holder {
    let [reuseaddr, reuseport, v6only, same_user, timestamps] = bits;
    Holder {
        reuseaddr: holder.reuseaddr.or(Some(reuseaddr)),
        reuseport: holder.reuseport.or(Some(reuseport)),
        v6only: holder.v6only.or(Some(v6only)),
        uid: holder.uid.or(Some(if same_user { 1000 } else { 3000 })),
        timestamps: holder.timestamps.or(Some(timestamps)),
        ..*holder
    }
}

/// Holders that may be in the way, whatever the unknown turns out to be.
fn in_the_way(case: &Case) -> Vec<usize> {
    let may_block = |index: &usize| {
        (0..32).any(|bits: u8| {
            let bits = std::array::from_fn(|bit| bits >> bit & 1 == 1);
            let holder = completed(&case.holders[*index], bits);
            blocks(&case.request, &holder, case.kernel).is_some()
        })
    };
    (0..case.holders.len()).filter(may_block).collect()
}

/// Carries out a remedy the way its documentation tells a person to.
fn apply(case: &Case, remedy: &Remedy) -> Case {
    let mut after = case.clone();
    let asker = &mut after.request.asker;
    match remedy {
        Remedy::ReuseaddrOnNew => asker.reuseaddr = true,
        Remedy::ReuseaddrOnBoth => {
            asker.reuseaddr = true;
            for index in in_the_way(case) {
                after.holders[index].reuseaddr = Some(true);
            }
        }
        Remedy::ReuseportOnNew => asker.reuseport = true,
        Remedy::ReuseportOnBoth => {
            asker.reuseport = true;
            for index in in_the_way(case) {
                after.holders[index].reuseport = Some(true);
            }
        }
        Remedy::V6onlyOnNew => asker.v6only = true,
        Remedy::ClearV6only => asker.v6only = false,
        Remedy::Freebind => asker.freebind = true,
        Remedy::Capability => asker.may_bind_privileged = Some(true),
        Remedy::NonlocalBind => {
            after.sysctls.nonlocal_bind = true;
            after.sysctls.nonlocal_bind_v6 = true;
        }
        Remedy::UnprivilegedPortStart(port) => after.sysctls.unprivileged_port_start = *port,
        Remedy::TcpTwReuse => after.sysctls.tcp_tw_reuse = 1,
        Remedy::OtherAddress(ip) => {
            after.request.address = Some(Address::Local);
            after.request.asked.as_mut().unwrap().addr.set_ip(*ip);
        }
        Remedy::Wait => {
            after.holders.retain(|holder| holder.minisocket.is_none());
            if let Some(ports) = &mut after.ports {
                ports.to_destination[usize::from(TcpState::TimeWait.number())] = 0;
            }
        }
        Remedy::CloseHolders(indices) => close(&mut after.holders, indices),
        Remedy::WiderPortRange => {
            after.sysctls.port_range = (1024, 65_535);
            let range = port_range(&after.request.asker, &after.sysctls);
            after.ports.as_mut().unwrap().range = range;
        }
        Remedy::OtherDestination => go_elsewhere(&mut after),
        Remedy::NewSocket => take_a_new_socket(&mut after),
        // `autobind_reuse_finds_a_port` tries it port by port.
        Remedy::AutobindReuse => {}
    }
    after
}

fn close(holders: &mut [Holder], indices: &[usize]) {
    for index in indices {
        let holder = &mut holders[*index];
        if holder.state == TcpState::Established {
            holder.state = TcpState::TimeWait;
            holder.minisocket = Some(Phase::TimeWait);
        } else {
            // Gone: another port stands for none.
            holder.local.set_port(1);
        }
    }
}

fn go_elsewhere(case: &mut Case) {
    let to = match case.request.asker.family {
        Family::V4 => "10.99.0.1:9",
        Family::V6 => "[fd99::1]:9",
    };
    case.request.asked = Some(asked(to));
    if let Some(ports) = &mut case.ports {
        ports.destination = Some(at(to));
        ports.to_destination = [0; 14];
    }
}

fn take_a_new_socket(case: &mut Case) {
    let old = case.request.asker;
    let any = match old.family {
        Family::V4 => "0.0.0.0:0",
        Family::V6 => "[::]:0",
    };
    case.request.asker.state = TcpState::Close;
    match case.request.call {
        Call::Listen => {}
        Call::Connect => {
            case.request.asker.local = at(any);
            case.ports = Some(unused(40_000, 40_009));
        }
        Call::Bind => {
            case.request.asker.local = at(any);
            case.holders.push(Holder {
                local: old.local,
                state: old.state,
                reuseaddr: Some(old.reuseaddr),
                reuseport: Some(old.reuseport),
                v6only: Some(old.v6only),
                uid: Some(old.uid),
                device: old.device,
                ..bound("127.0.0.1:1")
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Whatever is decided stays so, however the unknown turns out; and what is not has a reason.
    #[test]
    fn what_is_decided_does_not_depend_on_the_unknown(
        case in cases(),
        bits in vec(any::<[bool; 5]>(), 4),
        local in any::<bool>(),
        may_bind in any::<bool>(),
    ) {
        let verdict = case.verdict();
        let mut known = case.clone();
        for (holder, bits) in known.holders.iter_mut().zip(bits) {
            *holder = completed(holder, bits);
        }
        let address = if local { Address::Local } else { Address::Foreign };
        known.request.address = known.request.address.or(Some(address));
        let may = &mut known.request.asker.may_bind_privileged;
        *may = may.or(Some(may_bind));
        match (verdict, known.verdict()) {
            (Verdict::Undecided { missing }, _) => prop_assert!(!missing.is_empty()),
            (Verdict::Succeeds, after) => prop_assert_eq!(after, Verdict::Succeeds),
            // More holders may turn out to be in the way, and the port's cache may come into it.
            (Verdict::Fails { error, guilty, .. }, Verdict::Fails { error: after, guilty: all, .. }) => {
                prop_assert_eq!(error, after);
                prop_assert!(guilty.iter().all(|index| all.contains(index)));
            }
            (Verdict::Fails { .. }, Verdict::Undecided { .. }) => {}
            (failed @ Verdict::Fails { .. }, Verdict::Succeeds) => {
                prop_assert!(false, "{failed:?} became a success");
            }
        }
    }

    #[test]
    fn each_of_the_guilty_blocks_and_nobody_else(case in cases()) {
        if let Verdict::Fails { rule, guilty, .. } = case.verdict() {
            let blocking: Vec<(usize, Rule)> = case
                .holders
                .iter()
                .enumerate()
                .filter_map(|(index, holder)| {
                    blocks(&case.request, holder, case.kernel).map(|rule| (index, rule))
                })
                .collect();
            let indices: Vec<usize> = blocking.iter().map(|(index, _)| *index).collect();
            if !guilty.is_empty() {
                prop_assert_eq!(&guilty, &indices);
                prop_assert!(blocking.iter().any(|(_, one)| *one == rule));
            }
        }
    }

    #[test]
    fn a_failure_that_the_rules_give_is_explained_by_them(case in cases()) {
        if let Verdict::Fails { error, rule, guilty } = case.verdict() {
            let explanation = case.with_world(|request, world| explain(request, world, error, false));
            prop_assert!(explanation.agrees);
            prop_assert!(explanation.sure);
            prop_assert_eq!(explanation.rule, rule);
            let indices: Vec<usize> = explanation.guilty.iter().map(|(index, _)| *index).collect();
            prop_assert_eq!(indices, guilty);
        }
    }

    #[test]
    fn a_remedy_helps(case in cases()) {
        for remedy in case.with_world(remedies) {
            if remedy != Remedy::AutobindReuse {
                let after = apply(&case, &remedy);
                prop_assert_eq!(after.verdict(), Verdict::Succeeds, "{:?}\n{:#?}", remedy, after);
            }
        }
    }

    #[test]
    fn what_succeeds_needs_no_remedy(case in cases()) {
        if case.verdict() == Verdict::Succeeds {
            prop_assert_eq!(case.with_world(remedies), Vec::new());
        }
    }

    /// The second search of net/ipv4/inet_connection_sock.c `inet_csk_find_open_port`, port by port: one
    /// whose holders all have SO_REUSEADDR and do not listen is taken.
    #[test]
    fn autobind_reuse_finds_a_port(
        table in vec(vec(select(vec![TcpState::Close, TcpState::Listen, TcpState::Established]), 1..4), 1..9),
        options in select(vec!["", "R", "P"]),
    ) {
        let last = 39_999 + u16::try_from(table.len()).unwrap();
        let mut ports = PortUse {
            held: u32::try_from(table.len()).unwrap(),
            ..unused(40_000, last)
        };
        for state in table.iter().flatten() {
            ports.by_state[usize::from(state.number())] += 1;
        }
        let case = Case {
            request: super::scene::asking(super::scene::bind("[::]:0"), options),
            holders: Vec::new(),
            sysctls: BindSysctls { port_range: ports.range, ..BindSysctls::default() },
            ports: Some(ports),
            kernel: super::scene::NEWEST,
        };
        // An odd number of ports is searched without the last.
        let searched = if table.len() > 1 { table.len() & !1 } else { table.len() };
        let is_found = table[..searched]
            .iter()
            .any(|holders| !holders.contains(&TcpState::Listen));
        if case.with_world(remedies).contains(&Remedy::AutobindReuse) {
            prop_assert!(is_found && !options.contains('P'));
        }
    }
}
