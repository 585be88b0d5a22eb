//! How much memory the model takes for what it tracks: divide `max alloc` by the number of sockets.
//!
//! These are numbers at which the indexes have just grown: the worst there are.

mod traffic;

use divan::{AllocProfiler, Bencher};

use traffic::Traffic;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench(args = [1_000, 12_500, 100_000, 800_000], sample_count = 1, sample_size = 1)]
fn time_waits(bencher: Bencher<'_, '_>, waiting: usize) {
    bencher.bench_local(|| after_a_while(0, waiting));
}

#[divan::bench(args = [1_000, 12_500, 100_000, 800_000], sample_count = 1, sample_size = 1)]
fn open_connections(bencher: Bencher<'_, '_>, ends: usize) {
    bencher.bench_local(|| after_a_while(ends, 0));
}

/// A tracker of so many sockets, of which a part have come and gone.
fn after_a_while(open_ends: usize, waiting: usize) -> Traffic {
    let mut traffic = Traffic::with(open_ends, waiting);
    for _ in 0..1000 {
        traffic.turns_over();
    }
    traffic
}
