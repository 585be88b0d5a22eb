//! Owns the enumeration of cases: the same ones in each run.

use std::collections::HashSet;

use super::case::{Case, Change, Device, Kind, Old, Origin, Place, Status, Traits, Wish};

/// How much is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Some of each kind: seconds, also under emulation.
    Some,
    /// All.
    All,
}

/// Every state by every way to it, with every combination of the two options on both sides, at one
/// address.
pub(super) fn options(extent: Extent) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in Kind::all() {
        for bits in 0..16_u8 {
            let (old, new) = (with_options(bits & 3), with_options(bits >> 2));
            cases.push(Case {
                old: vec![one(old, kind)],
                new,
                wish: Wish::ThatPort,
            });
        }
    }
    // Two in seven: coprime to the number of combinations, so every combination comes.
    sampled(cases, extent, |number| number % 7 < 2)
}

/// Every address beside every other one, with IPV6_V6ONLY on either side, for what has a connection and
/// what has none.
pub(super) fn addresses(extent: Extent) -> Vec<Case> {
    let kinds = [
        (Origin::Bind, Status::Bound),
        (Origin::Bind, Status::Listen),
        (Origin::Accept, Status::Established),
        (Origin::Accept, Status::TimeWait),
        (Origin::BoundConnect, Status::Established),
        (Origin::Connect, Status::Established),
        (Origin::Connect, Status::TimeWait),
    ];
    let mut cases = Vec::new();
    for (origin, status) in kinds {
        for old in places(false) {
            let choices = match origin {
                Origin::Bind => 1,
                Origin::Accept | Origin::BoundConnect | Origin::Connect => {
                    old.place.reached_by(old.v6only).len()
                }
            };
            for via in 0..choices {
                for new in places(true) {
                    cases.push(Case {
                        old: vec![Old {
                            traits: old,
                            kind: Kind { origin, status },
                            via,
                            late: None,
                        }],
                        new,
                        wish: Wish::ThatPort,
                    });
                }
            }
        }
    }
    sampled(cases, extent, |number| number % 11 < 2)
}

/// Users, devices, options set late and ports that the kernel chooses, one holder each.
pub(super) fn circumstances(extent: Extent) -> Vec<Case> {
    mixed(0x0005_EEDE_D0C5, 2_000, extent, 150, |random| {
        let old = random.old();
        let new = random.new_beside(old.traits);
        let wish = random.wish();
        Case {
            old: vec![old],
            new,
            wish,
        }
    })
}

/// Two and three holders of one port.
pub(super) fn several(extent: Extent) -> Vec<Case> {
    mixed(0x000B_1ADE_D0C5, 3_000, extent, 250, |random| {
        let count = 2 + random.below(2);
        let shared = random.below(4);
        let mut old: Vec<Old> = (0..count).map(|_| random.old()).collect();
        for (number, one) in old.iter_mut().enumerate() {
            // What lets them hold the port together: mostly SO_REUSEADDR, also SO_REUSEPORT of one user,
            // or different addresses.
            match shared {
                0 | 1 => one.traits.reuseaddr = true,
                2 => {
                    one.traits.reuseport = true;
                    one.traits.other_user = false;
                }
                _ => {
                    let places = [Place::V4One, Place::V4Two, Place::V6One];
                    one.traits.place = places[number];
                    one.traits.v6only = false;
                    one.traits.device = Device::None;
                }
            }
        }
        // A bind()-created port is closed to connect(), and what listens shares with nobody who comes
        // later and listens too.
        old.sort_by_key(|one| {
            if one.kind.origin == Origin::Connect {
                0
            } else if one.kind.status == Status::ListenWithQueued {
                2
            } else if one.kind.status.listens() {
                3
            } else {
                1
            }
        });
        // A second listener of the same group might take the connections of the first.
        let mut queued = 0;
        for one in &mut old {
            if one.kind.status == Status::ListenWithQueued {
                queued += 1;
                if queued > 1 {
                    one.kind.status = Status::Listen;
                }
            }
        }
        let beside = old[random.below(old.len())].traits;
        let new = random.new_beside(beside);
        let wish = if random.one_in(6) {
            random.wish()
        } else {
            Wish::ThatPort
        };
        Case { old, new, wish }
    })
}

fn one(traits: Traits, kind: Kind) -> Old {
    Old {
        traits,
        kind,
        via: 0,
        late: None,
    }
}

fn with_options(bits: u8) -> Traits {
    Traits {
        reuseaddr: bits & 1 != 0,
        reuseport: bits & 2 != 0,
        ..Traits::at(Place::V4One)
    }
}

/// Every address, IPv6 ones with and without IPV6_V6ONLY where that is allowed, or when it fails.
fn places(also_refused: bool) -> Vec<Traits> {
    let mut all = Vec::new();
    for place in Place::ALL {
        all.push(Traits::at(place));
        if place.is_ipv6_socket() && (also_refused || !place.is_mapped()) {
            all.push(Traits {
                v6only: true,
                ..Traits::at(place)
            });
        }
    }
    all
}

fn sampled(cases: Vec<Case>, extent: Extent, some: impl Fn(usize) -> bool) -> Vec<Case> {
    let numbered = cases.into_iter().enumerate();
    numbered
        .filter(|(number, _)| extent == Extent::All || some(*number))
        .map(|(_, case)| case)
        .collect()
}

/// Different cases from a seed: `all` of them, or the first `some`.
fn mixed(
    seed: u64,
    all: usize,
    extent: Extent,
    some: usize,
    make: impl Fn(&mut Random) -> Case,
) -> Vec<Case> {
    let wanted = match extent {
        Extent::Some => some,
        Extent::All => all,
    };
    let mut random = Random(seed);
    let mut known = HashSet::new();
    let mut cases = Vec::new();
    while cases.len() < wanted {
        let case = make(&mut random);
        if known.insert(case.clone()) {
            cases.push(case);
        }
    }
    cases
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(1).max(1);
        usize::try_from(self.next() % limit).unwrap_or(0)
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn any<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn old(&mut self) -> Old {
        let kind = self.any(&Kind::all());
        let mut traits = Traits {
            place: self.any(&Place::ALL),
            v6only: false,
            reuseaddr: self.one_in(2),
            reuseport: self.one_in(3),
            other_user: self.one_in(4),
            device: self.device(),
        };
        traits.v6only =
            traits.place.is_ipv6_socket() && !traits.place.is_mapped() && self.one_in(3);
        if traits.device == Device::Other && !may_be_elsewhere(kind, traits.place) {
            traits.device = Device::Loopback;
        }
        let late = self.one_in(4).then(|| {
            let on = self.one_in(2);
            if self.one_in(2) {
                Change::Reuseaddr(on)
            } else {
                Change::Reuseport(on)
            }
        });
        Old {
            traits,
            kind,
            via: self.below(4),
            late,
        }
    }

    fn new_beside(&mut self, old: Traits) -> Traits {
        let place = if self.one_in(2) {
            old.place
        } else {
            self.any(&Place::ALL)
        };
        let mut device = if self.one_in(2) {
            old.device
        } else {
            self.device()
        };
        if device == Device::Other && place == Place::V6One {
            device = Device::None;
        }
        Traits {
            place,
            v6only: place.is_ipv6_socket() && self.one_in(4),
            reuseaddr: self.one_in(2),
            reuseport: if self.one_in(2) {
                old.reuseport
            } else {
                self.one_in(2)
            },
            other_user: if self.one_in(2) {
                old.other_user
            } else {
                self.one_in(2)
            },
            device,
        }
    }

    fn device(&mut self) -> Device {
        match self.below(8) {
            0 | 1 => Device::Loopback,
            2 => Device::Other,
            _ => Device::None,
        }
    }

    fn wish(&mut self) -> Wish {
        match self.below(12) {
            0 => Wish::AnyPort {
                autobind_reuse: false,
            },
            1 => Wish::AnyPort {
                autobind_reuse: true,
            },
            2 => Wish::ListenOnly,
            3 if self.one_in(4) => Wish::ReservedPort,
            _ => Wish::ThatPort,
        }
    }
}

/// Whether a holder can be bound to an interface other than loopback: nothing connects there, and ::1 is
/// an address of loopback only.
fn may_be_elsewhere(kind: Kind, place: Place) -> bool {
    kind.origin == Origin::Bind && kind.status != Status::ListenWithQueued && place != Place::V6One
}
