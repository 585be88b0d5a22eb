//! Owns the kernel's rules for bind(), listen() and connect(): who may take which port, and what would
//! change the answer. Pure functions: the request, the sockets that hold ports and the settings of the
//! namespace in, the verdict out.
//!
//! One file a step: `precheck` what is checked before other sockets count, `overlap` whether addresses
//! meet, `bind` whether one holder is in the way of one newcomer, `automatic` the kernel's own choice of a
//! port, `listen` the second look, `connect` the table of connections, `explain` an errno that was seen,
//! `remedy` what would have helped.

mod automatic;
mod bind;
mod connect;
pub mod errno;
mod explain;
mod listen;
mod overlap;
mod precheck;
mod remedy;
mod types;

pub use automatic::port_range;
pub use explain::{Explanation, explain, settled};
pub use remedy::remedies;
pub use types::{
    Address, Asked, Asker, BindSysctls, Call, Family, Holder, KernelVersion, PortUse, Remedy,
    Request, Rule, Verdict, World,
};

use bind::{Newcomer, Stance};

/// What the kernel does with `request` in `world`.
///
/// [`World::holders`] must not contain the asker itself. Holders of another port than the one that is
/// asked for do not matter. A fact that is not known counts only where it decides.
///
/// Not covered: interfaces of a VRF, which have ports of their own; what security modules and cgroup
/// programs say; and what a port remembers of sockets that are gone, or of options that were changed after
/// bind() (`tb->fastreuse`, `tb->fastreuseport`): it lets some sockets in that the holders would stop,
/// never the other way round.
#[must_use]
pub fn decide(request: &Request, world: &World<'_>) -> Verdict {
    match request.call {
        Call::Bind => bind::decide(request, world),
        Call::Listen => listen::decide(request, world),
        Call::Connect => connect::decide(request, world),
    }
}

/// What the kernel will do with the listen() that follows a bind() as `request` asks for, if nothing
/// changes. Two sockets with `SO_REUSEADDR` may both be bound, but only the first of them can listen.
#[must_use]
pub fn listen_after(request: &Request, world: &World<'_>) -> Verdict {
    let mut following = Request {
        call: Call::Listen,
        ..*request
    };
    if let Some(passed) = precheck::assume_passed(request) {
        following.asker.local = passed.local;
        following.asker.device = passed.device;
    }
    decide(&following, world)
}

/// The clause by which `holder` is in the way of `request`; `None` when it is not, or when that is not
/// known. For bind() whatever the checks before would have said.
#[must_use]
pub fn blocks(request: &Request, holder: &Holder, kernel: KernelVersion) -> Option<Rule> {
    match stance(request, holder, kernel) {
        Stance::Blocks(rule) => Some(rule),
        Stance::Free | Stance::Depends(..) => None,
    }
}

fn stance(request: &Request, holder: &Holder, kernel: KernelVersion) -> Stance {
    let passed = match request.call {
        Call::Bind => precheck::assume_passed(request),
        Call::Listen => Some(listen::bound(request)),
        Call::Connect => return connect::stance(request, holder),
    };
    passed.map_or(Stance::Free, |passed| {
        Newcomer::new(&request.asker, &passed, kernel).judge(holder, kernel)
    })
}
