//! Owns the explanation of a call that failed: the rules' answer, joined with what the trace knows of
//! the sockets in the way.

use alloc::vec::Vec;
use core::cmp::Reverse;

use hashbrown::HashSet;

use crate::{
    CallFailed, Certainty, Doubt, Doubts, FailedBind, HolderFound, Listing, OptionsSource,
    SocketCall, TcpState, Tracker,
    calls::Waiting,
    conflict::{
        self, BindSysctls, Call, Holder, Remedy, Request, Rule, World,
        errno::{EADDRINUSE, EADDRNOTAVAIL},
    },
    ports::Known,
    tuple::{Tuple, may_be_same},
};

impl Tracker {
    /// Why `call` failed, and who was in the way.
    pub(crate) fn explained(
        &mut self,
        call: &SocketCall,
        waiting: &Waiting,
        after_failed_bind: Option<FailedBind>,
    ) -> CallFailed {
        let port = port_in_question(call);
        let lacks = self.calls.may_lack(call);
        let whole = call.listing == Listing::Whole && !lacks;
        let unlisted = port.is_some() && !whole;
        if let Some(port) = port.filter(|_| whole) {
            self.only_these_hold(call.netns, port, &waiting.holders, call.sk);
        }
        let known = self.candidates(call, waiting, port.filter(|_| unlisted));
        let holders: Vec<Holder> = known.iter().map(|known| known.holder).collect();
        let default = BindSysctls::default();
        let surroundings = waiting.surroundings.as_ref();
        let request = request_of(call);
        let world = World {
            holders: &holders,
            sysctls: surroundings.map_or(&default, |found| &found.sysctls),
            ports: surroundings.and_then(|found| found.ports),
            kernel: self.settings.kernel,
        };
        let told = conflict::explain(&request, &world, call.error, call.refused_by_lsm);

        let mut doubts = Doubts::NONE;
        if unlisted {
            doubts = doubts.and(self.doubts_of_table(!told.guilty.is_empty()));
        }
        if lacks && unlisted && call.listing != Listing::None {
            doubts = doubts.with(Doubt::RecordsLost);
        }
        let guilty = || told.guilty.iter().map(|(place, _)| &known[*place]);
        for known in guilty() {
            doubts = doubts.and(known.doubts);
        }
        // Among all holders the only one that can be in the way is; among those known it need not be.
        if !told.sure || unlisted && guilty().any(|known| known.options == OptionsSource::Unknown) {
            doubts = doubts.with(Doubt::OptionsUnknown);
        }
        // With holders that nobody has listed, the rules cannot be right.
        if !told.agrees && !unlisted {
            doubts = doubts.with(Doubt::RulesDisagree);
        }
        let certainty = if !told.agrees || told.rule == Rule::Unknown {
            Certainty::Unknown
        } else if unlisted || !told.sure || surroundings.is_none() && rests_on_settings(told.rule) {
            Certainty::Inferred
        } else {
            Certainty::Exact
        };

        let mut remedies = conflict::remedies(&request, &world);
        let mut found: Vec<(usize, HolderFound)> = known
            .iter()
            .map(|known| found(call, known))
            .enumerate()
            .collect();
        for (place, rule) in &told.guilty {
            let found = &mut found[*place].1;
            found.blocks = true;
            found.rule = Some(*rule);
        }
        let free_at_ns = free_at_ns(&found);
        found.sort_by_key(|(_, found)| order(found));
        renumber(&mut remedies, &found);
        found.truncate(CallFailed::MOST_HOLDERS);
        CallFailed {
            call: *call,
            rule: told.rule,
            holders_total: known.len(),
            blocking_total: told.guilty.len(),
            holders: found.into_iter().map(|(_, found)| found).collect(),
            ports: world.ports,
            remedies,
            free_at_ns,
            after_failed_bind,
            certainty,
            doubts,
        }
    }

    /// Who holds the port: those that the kernel has listed, and where it has not listed all who hold
    /// `unlisted`, those that the trace knows.
    fn candidates(
        &mut self,
        call: &SocketCall,
        waiting: &Waiting,
        unlisted: Option<u16>,
    ) -> Vec<Known> {
        let mut known: Vec<Known> = waiting
            .holders
            .iter()
            .filter(|listed| listed.holder.sk != call.sk && may_be_same(listed.netns, call.netns))
            .map(|listed| self.joined(listed))
            .collect();
        if let Some(port) = unlisted {
            let mut has: HashSet<u64> = known.iter().map(|known| known.holder.sk).collect();
            has.insert(call.sk);
            let itself = |holder: &Holder| call.cookie.is_some() && holder.cookie == call.cookie;
            let tuple = call
                .asked
                .filter(|_| call.call == Call::Connect)
                .filter(|_| !call.asker.local.ip().is_unspecified())
                .and_then(|asked| Tuple::of(call.asker.local, asked.addr));
            let held = match tuple {
                Some(tuple) => self.known_with_tuple(call.netns, tuple, call.ts_ns),
                None => self.known_holders(call.netns, port, call.ts_ns),
            };
            known.extend(held.into_iter().filter(|held| {
                let sk = held.holder.sk;
                !itself(&held.holder) && (sk == 0 || !has.contains(&sk))
            }));
        }
        // Where the kernel was to choose the port, the holder that it met last is one of many.
        if port_in_question(call).is_some()
            && let Some(guilty) = call.guilty.filter(|guilty| *guilty != call.sk)
            && known.iter().all(|known| known.holder.sk != guilty)
        {
            known.extend(self.named(guilty));
        }
        known
    }
}

/// The port that other sockets may hold; `None` when the call did not fail for one of its own.
fn port_in_question(call: &SocketCall) -> Option<u16> {
    let port = match (call.call, call.error) {
        (Call::Bind, EADDRINUSE) => call.asked?.addr.port(),
        (Call::Listen, EADDRINUSE) | (Call::Connect, EADDRNOTAVAIL) => call.asker.local.port(),
        (Call::Bind | Call::Listen | Call::Connect, _) => 0,
    };
    (port != 0).then_some(port)
}

fn request_of(call: &SocketCall) -> Request {
    let request = Request {
        call: call.call,
        asker: call.asker,
        asked: call.asked,
        address: None,
    };
    conflict::settled(&request, call.error)
}

/// Whether settings of the namespace decide about `rule`.
const fn rests_on_settings(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::PrivilegedPort | Rule::NoFreePort | Rule::PortsExhausted | Rule::TupleInTimeWait
    )
}

fn found(call: &SocketCall, known: &Known) -> HolderFound {
    HolderFound {
        holder: known.holder,
        blocks: false,
        named_by_kernel: call.guilty == Some(known.holder.sk),
        rule: None,
        owner: known.owner,
        since_ns: known.since_ns,
        frees_at_ns: known
            .expires_ns
            .filter(|_| known.holder.minisocket.is_some()),
        options: known.options,
    }
}

/// When the last of those in the way ends by itself.
fn free_at_ns(found: &[(usize, HolderFound)]) -> Option<u64> {
    let mut last_ns = None;
    for (_, found) in found.iter().filter(|(_, found)| found.blocks) {
        last_ns = last_ns.max(Some(found.frees_at_ns?));
    }
    last_ns
}

/// Those in the way first, of these the one that the kernel has named; then by state, and what stays
/// longest first.
fn order(found: &HolderFound) -> impl Ord + use<> {
    let holder = &found.holder;
    let state = match holder.state {
        TcpState::Listen => 0,
        TcpState::Close | TcpState::BoundInactive => 1,
        TcpState::SynSent | TcpState::SynRecv | TcpState::NewSynRecv => 2,
        TcpState::Established => 3,
        TcpState::CloseWait => 4,
        TcpState::FinWait1 | TcpState::Closing | TcpState::LastAck => 5,
        TcpState::FinWait2 if holder.minisocket.is_none() => 6,
        TcpState::FinWait2 => 7,
        TcpState::TimeWait => 8,
    };
    (
        (!found.blocks, !found.named_by_kernel, state),
        Reverse(found.frees_at_ns),
        (holder.local, holder.remote, holder.sk),
    )
}

/// Makes remedies speak of places among those found as they stand now.
fn renumber(remedies: &mut [Remedy], found: &[(usize, HolderFound)]) {
    for remedy in remedies {
        if let Remedy::CloseHolders(places) = remedy {
            *places = found
                .iter()
                .take(CallFailed::MOST_HOLDERS)
                .enumerate()
                .filter(|(_, (before, _))| places.contains(before))
                .map(|(now, _)| now)
                .collect();
        }
    }
}
