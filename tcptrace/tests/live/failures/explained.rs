//! `tcptrace explain` beside a call that has just failed: it must say the same, without having seen it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::remedies;
use super::situations::{SITUATIONS, Situation};
use super::told::{fail, line_of};
use crate::lines;
use crate::tracer::{self, Tracer};
use crate::{netns, ports};

pub(super) fn the_same() -> Result<()> {
    netns::with_new(|_| {
        let tracer = Tracer::json(&[])?;
        let mut played = Vec::new();
        // A socket that is bound already is nothing that `explain` could know of.
        let is_new = |one: &&Situation| one.rule != "already_bound" && !one.listens;
        for situation in SITUATIONS.iter().filter(is_new) {
            let port = ports::next();
            let explained =
                fail(situation, port, || explain(situation, port)).context(situation.name)?;
            played.push((situation, port, explained));
        }
        let report = tracer.stop_settled()?;
        for (situation, port, explained) in played {
            let failed = line_of(&report, port)?;
            same(failed, &explained).with_context(|| {
                format!(
                    "{}:\nfailed    {failed}\nexplained {explained}",
                    situation.name
                )
            })?;
        }
        Ok(())
    })
}

/// What `explain` says of the call of the situation.
fn explain(situation: &Situation, port: u16) -> Result<Value> {
    let place = if situation.new.ip.is_ipv6() {
        format!("[{}]:{port}", situation.new.ip)
    } else {
        format!("{}:{port}", situation.new.ip)
    };
    let mut flags = vec!["explain", &place, "--json"];
    for (is_set, flag) in [
        (situation.new.reuseaddr, "--reuseaddr"),
        (situation.new.reuseport, "--reuseport"),
        (situation.new.v6only, "--v6only"),
    ] {
        if is_set {
            flags.push(flag);
        }
    }
    let output = tracer::command(&flags, &[]).output()?;
    ensure!(
        output.status.success(),
        "explain must have an answer, but: {}; it said: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).context("a line that is not JSON"))
        .find(|line| {
            line.as_ref()
                .is_ok_and(|line| line["kind"] == "would_fail" && line["call"] == "bind")
        })
        .with_context(|| format!("no line says that it would fail: {text}"))?
}

fn same(failed: &Value, explained: &Value) -> Result<()> {
    for name in ["call", "errno", "rule", "holders_total", "blocking_total"] {
        ensure!(
            lines::field(failed, name)? == lines::field(explained, name)?,
            "{name} differs"
        );
    }
    ensure!(
        blocking(failed)? == blocking(explained)?,
        "other sockets are in the way"
    );
    let (did, would) = (remedies::names(failed)?, remedies::names(explained)?);
    ensure!(did == would, "other remedies: {did:?}, {would:?}");
    Ok(())
}

/// The sockets in the way: state, ends, options, and the process that has them.
fn blocking(line: &Value) -> Result<BTreeSet<String>> {
    let holders = lines::field(line, "holders")?;
    let holders = holders.as_array().context("holders are a list")?;
    Ok(holders
        .iter()
        .filter(|one| one["blocks"] == true)
        .map(|one| {
            format!(
                "{} {}:{} {}:{} {} {}",
                one["state"],
                one["laddr"],
                one["lport"],
                one["raddr"],
                one["rport"],
                one["reuseaddr"],
                one["reuseport"],
            )
        })
        .collect())
}
