//! What is said to help, done: with each remedy that is printed, the same call succeeds.

use std::io;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::situations::{Held, Situation};
use crate::lines;
use crate::sockets::Socket;
use crate::{kernel_table, netns, ports};

/// The names of the remedies in a line.
pub(super) fn names(line: &Value) -> Result<Vec<String>> {
    let remedies = lines::field(line, "remedies")?;
    let remedies = remedies.as_array().context("remedies are a list")?;
    remedies
        .iter()
        .map(|one| lines::text(one, "remedy").map(str::to_owned))
        .collect()
}

/// Makes the situation again with the change that the remedy asks for: the call must succeed.
pub(super) fn perform(situation: &Situation, remedy: &str) -> Result<()> {
    let mut changed = *situation;
    let port = ports::next();
    let outcome = match remedy {
        "reuseaddr_on_new" => {
            changed.new.reuseaddr = true;
            as_before(&changed, port)
        }
        "reuseaddr_on_both" => {
            changed.new.reuseaddr = true;
            changed.holder.reuseaddr = true;
            as_before(&changed, port)
        }
        "reuseport_on_new" => {
            changed.new.reuseport = true;
            as_before(&changed, port)
        }
        "reuseport_on_both" => {
            changed.new.reuseport = true;
            changed.holder.reuseport = true;
            as_before(&changed, port)
        }
        "v6only_on_new" => {
            changed.new.v6only = true;
            as_before(&changed, port)
        }
        "clear_v6only" => {
            changed.new.v6only = false;
            as_before(&changed, port)
        }
        "freebind" => {
            changed.new.freebind = true;
            as_before(&changed, port)
        }
        "nonlocal_bind" => with_sysctl("ipv4/ip_nonlocal_bind", "1", "0", || {
            as_before(&changed, port)
        }),
        "close_holders" => {
            drop(changed.hold(port)?);
            changed.call(port, &Held::new())
        }
        "wait" => {
            let held = changed.hold(port)?;
            let gone = |rows: &[kernel_table::Row]| rows.iter().all(|row| row.lport != port);
            kernel_table::wait_for(&[port], gone, "the minisockets to go by themselves")?;
            changed.call(port, &held)
        }
        "new_socket" => {
            changed.rule = "";
            as_before(&changed, port)
        }
        other => bail!("no test knows how to perform {other:?}"),
    };
    let outcome = outcome?;
    ensure!(
        outcome.is_ok(),
        "{}: {remedy} is said to help, but with it: {:?}",
        situation.name,
        outcome.err()
    );
    Ok(())
}

fn as_before(situation: &Situation, port: u16) -> Result<io::Result<Socket>> {
    let held = situation.hold(port)?;
    situation.call(port, &held)
}

/// Runs `body` with a sysctl of this namespace set.
fn with_sysctl<T>(name: &str, on: &str, off: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    netns::set_sysctl(name, on)?;
    let done = body();
    netns::set_sysctl(name, off)?;
    done
}
