//! When a test that has failed is run again: when the kernel kept events from the tracer meanwhile, for which no
//! program can be blamed, and it is known that it did. Which sockets they were of is not, so this may be once too
//! often; but a test that fails without such an event, or three times, has failed.

use anyhow::Result;

use crate::{hidden, skipped};

/// How often a test may be run in all when events were kept from the tracer each time.
const ATTEMPTS: u32 = 3;

/// Runs a test; once more, and then once more again, if it fails and events were kept from the tracer.
pub(crate) fn unless_seen(test: &dyn Fn() -> Result<()>) -> Result<()> {
    let mut attempt = 1;
    loop {
        let watch = hidden::Watch::start()?;
        // What came before is not this test's.
        skipped::take();
        let Err(error) = test() else {
            return Ok(());
        };
        let hidden = watch.map_or(Ok(0), |watch| watch.count())?;
        let lost = skipped::take();
        let skipped = skipped::excused(&lost);
        let error = skipped::with_losses(error, &lost);
        if attempt == ATTEMPTS || hidden + skipped == 0 {
            return Err(error);
        }
        if hidden > 0 {
            eprintln!(
                "run again, since {hidden} events came while process 1 was on the CPU, which this kernel keeps \
                 from eBPF programs: {error:#}"
            );
        } else {
            eprintln!(
                "run again, since the kernel skipped programs when a task had lost its CPU in one, as the tracer \
                 told {skipped} times: {error:#}"
            );
        }
        attempt += 1;
    }
}
