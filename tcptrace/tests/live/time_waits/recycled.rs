//! Minisockets one after the other in the same memory: each is told as itself.

use anyhow::{Result, ensure};

use super::observers::Observers;
use crate::endings::expect_fin;
use crate::sockets::{Family, Pair};
use crate::{kernel_table, netns, ports, sys};

/// How many in turn.
const TURNS: usize = 4;

/// The orphan's minisocket expires, and the next one is made where it was: on one CPU, the kernel
/// gives the memory that it freed last.
pub(super) fn each_is_itself() -> Result<()> {
    netns::with_new(|_| {
        netns::set_sysctl("ipv4/tcp_fin_timeout", "1")?;
        let observers = Observers::here()?;
        sys::stay_on_this_cpu()?;
        for _ in 0..TURNS {
            let port = ports::next();
            let listener = Family::V4.listener(port)?;
            let Pair { client, server } = Family::V4.pair(&listener, port)?;
            let local = client.local_port()?;
            drop(client);
            expect_fin(&server)?;
            let gone = |rows: &[kernel_table::Row]| rows.iter().all(|row| row.lport != local);
            kernel_table::wait_for(&[local], gone, "the orphan to be given up")?;
        }
        observers.check(|observed| {
            let report = &observed.report;
            let ends: Vec<&str> = report
                .time_waits
                .iter()
                .map(|one| one.end.as_str())
                .collect();
            ensure!(
                report.entered.len() == TURNS && ends == ["expired"; TURNS],
                "{:?}, {:?}",
                report.entered,
                report.time_waits
            );
            report
                .time_waits
                .iter()
                .try_for_each(|one| one.sure.is_exact())
        })
    })
}
