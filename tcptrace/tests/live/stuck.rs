//! Connections that stay where they should pass through.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::endings::expect_fin;
use crate::event::State;
use crate::lines::Report;
use crate::peer::{self, Wire};
use crate::sockets::{Family, Pair, Socket};
use crate::tracer::Tracer;
use crate::{Needs, Scenario, kernel_table, netns, ports};

/// As `--stuck-after` takes it.
const AFTER: &str = "1";
const AFTER_NS: u64 = 1_000_000_000;
/// Longer than that by far, on any machine.
const HELD: Duration = Duration::from_millis(2_500);

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("stuck: who does not close, and who is not answered", told)
            .needing(Needs::Peer),
    ]
}

fn told() -> Result<()> {
    netns::with_new(|_| {
        let [port, open, silent] = [ports::next(), ports::next(), ports::next()];
        let tracer = Tracer::json(&["--stuck-after", AFTER])?;
        let listener = Family::V4.listener(port)?;
        // The one end waits for the other's close() in FIN_WAIT2, the other one is in CLOSE_WAIT.
        let Pair { client, server } = Family::V4.pair(&listener, port)?;
        let local = client.local_port()?;
        client.shutdown_write()?;
        expect_fin(&server)?;
        kernel_table::wait_for_state(local, port, State::FIN_WAIT2)?;
        // Nothing is wrong with a connection that is open for long, or with a listener.
        let other = Family::V4.listener(open)?;
        let idle = Family::V4.pair(&other, open)?;
        let mut unanswered = Wire::default().server(silent)?;
        let connecting = Socket::new(false)?;
        connecting.set_nonblocking()?;
        // In progress, which is an error by name.
        let _ = connecting.connect(peer::address(silent));
        unanswered.await_syn()?;
        std::thread::sleep(HELD);
        drop((client, server, idle, connecting));
        let report = tracer.stop()?;
        check(&report, (local, port), "FIN_WAIT2")?;
        check(&report, (port, local), "CLOSE_WAIT")?;
        let lines: Vec<_> = report
            .stuck
            .iter()
            .filter(|line| line.ends.rport == silent)
            .collect();
        ensure!(
            lines.len() == 1 && lines[0].state == "SYN_SENT",
            "one that gets no answer is in SYN_SENT: {lines:?}"
        );
        let without_need = |line: &&crate::told::Stuck| {
            line.ends.lport == open || line.ends.rport == open || line.state == "LISTEN"
        };
        let others: Vec<_> = report.stuck.iter().filter(without_need).collect();
        ensure!(others.is_empty(), "nothing is wrong with {others:?}");
        Ok(())
    })
}

fn check(report: &Report, ports: (u16, u16), state: &str) -> Result<()> {
    let mine = |line: &&crate::told::Stuck| (line.ends.lport, line.ends.rport) == ports;
    let lines: Vec<_> = report.stuck.iter().filter(mine).collect();
    ensure!(
        lines.len() == 1,
        "the end in {state} is to be told once, not {} times: {lines:?}",
        lines.len()
    );
    let line = lines[0];
    ensure!(line.state == state, "it is in {state}: {line:?}");
    let most = u64::try_from((HELD + crate::PATIENCE).as_nanos())?;
    ensure!(
        (AFTER_NS..most).contains(&line.for_ns),
        "it is told once it has lasted {AFTER} s: {line:?}"
    );
    let owner = line.owner.as_ref().context("it has an owner")?;
    ensure!(
        owner.process.pid == std::process::id(),
        "it is ours: {line:?}"
    );
    line.sure.is_exact()
}
