//! Owns the kernel's rules for bind(), listen() and connect(): who may take which port, and what would
//! change the answer. Pure functions: the request, the sockets that hold ports and the settings of the
//! namespace in, the verdict out.

mod types;

pub use types::{
    Address, Asked, Asker, BindSysctls, Call, Family, Holder, KernelVersion, PortUse, Remedy,
    Request, Rule, Verdict, World,
};

/// What the kernel does with `request` in `world`.
#[must_use]
pub fn decide(_request: &Request, _world: &World<'_>) -> Verdict {
    Verdict::Undecided { missing: "" }
}

/// What would have made a failing `request` succeed, best first: each was tried by [`decide`] with the
/// change made, and it succeeded.
#[must_use]
pub fn remedies(_request: &Request, _world: &World<'_>) -> alloc::vec::Vec<Remedy> {
    alloc::vec::Vec::new()
}
