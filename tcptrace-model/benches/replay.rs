//! How many inputs per second the model takes, by how many sockets it tracks.
//!
//! Half of the sockets are ends of open connections, half are minisockets. The time includes making
//! the inputs up, which `untold` measures alone, and dropping the findings.

mod traffic;

use divan::{Bencher, counter::ItemsCount};

use traffic::Traffic;

/// Inputs of one connection over loopback: both ends' transitions, accept(), and the minisocket.
const INPUTS_PER_LIFE: u64 = 13;

/// Connections per sample.
const LIVES: u64 = 2000;

fn main() {
    divan::main();
}

#[divan::bench(args = [1_000, 10_000, 100_000, 1_000_000])]
fn tracked(bencher: Bencher<'_, '_>, sockets: usize) {
    turn_over(bencher, Traffic::with(sockets / 2, sockets / 2));
}

#[divan::bench]
fn untold(bencher: Bencher<'_, '_>) {
    let mut traffic = Traffic::with(500, 500);
    traffic.untold = true;
    turn_over(bencher, traffic);
}

fn turn_over(bencher: Bencher<'_, '_>, mut traffic: Traffic) {
    bencher
        .counter(ItemsCount::new(LIVES * INPUTS_PER_LIFE))
        .bench_local(|| {
            for _ in 0..LIVES {
                traffic.turns_over();
            }
        });
}
