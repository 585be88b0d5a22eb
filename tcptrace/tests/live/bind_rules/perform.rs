//! Owns the performance of a case: its holders, the call, and whether those that the rules call guilty are.

use anyhow::{Context, Result};
use tcptrace_model::TcpState;
use tcptrace_model::conflict::{Holder, Verdict};

use super::case::{Case, Device, Old, Status, Wish};
use super::holder::{self, Made};
use super::judge::{Act, Judge, Outcome};
use super::stage::{Stage, user};
use crate::sockets::Socket;

/// What the two calls came to.
struct Performed {
    bind: Outcome,
    /// After a bind() that succeeded.
    listen: Option<Outcome>,
    /// The holder of the case that each holder told to the rules belongs to.
    belongs: Vec<usize>,
}

/// Performs the case and compares each call.
pub(super) fn case(stage: &mut Stage, judge: &mut Judge, case: &Case) -> Result<()> {
    let elsewhere = |device| device == Device::Other;
    let mut devices = case.old.iter().map(|old| old.traits.device);
    if !stage.has_other_device() && (devices.any(elsewhere) || elsewhere(case.new.device)) {
        judge.tally.no_device += 1;
        return Ok(());
    }
    judge.tally.cases += 1;
    for old in &case.old {
        let kind = format!("{:?} {:?}", old.kind.origin, old.kind.status);
        *judge.tally.by_kind.entry(kind).or_default() += 1;
    }
    let Some(performed) = perform(stage, judge, case)? else {
        judge.tally.not_together += 1;
        return Ok(());
    };
    if case.old.len() > 1 {
        try_out(stage, judge, case, &performed)?;
    }
    Ok(())
}

/// `None` if the holders cannot be together.
fn perform(stage: &mut Stage, judge: &mut Judge, case: &Case) -> Result<Option<Performed>> {
    let port = stage.fresh_port()?;
    let mut made: Vec<Made> = Vec::new();
    for (number, old) in case.old.iter().enumerate() {
        let present = all(&made);
        match holder::make(stage, judge, number, old, port, &present)
            .with_context(|| format!("cannot make {old}"))?
        {
            Some(one) => made.push(one),
            None => return Ok(None),
        }
    }
    let belongs = made
        .iter()
        .enumerate()
        .flat_map(|(number, one)| vec![number; one.holders.len()])
        .collect();
    let socket = stage.socket(case.new)?;
    let bind = first_call(stage, judge, case, &socket, port, &made)?;
    let mut listen = None;
    if bind.errno == 0 && case.wish != Wish::ListenOnly {
        let local = socket.local_address()?;
        let ours = Holder {
            sk: 0,
            cookie: None,
            state: TcpState::Close,
            minisocket: None,
            local,
            remote: local,
            reuseaddr: Some(case.new.reuseaddr),
            reuseport: Some(case.new.reuseport),
            force_reuse: false,
            v6only: Some(Act::listen(stage, case.new, &socket)?.request.asker.v6only),
            uid: Some(user(case.new)),
            device: stage.device(case.new.device)?,
            port_bound: Some(true),
            timestamps: None,
        };
        listen_in_between(stage, judge, &mut made, &ours)?;
        let act = Act::listen(stage, case.new, &socket)?;
        listen = Some(judge.try_call(stage, &act, &socket, &all(&made))?);
    }
    Ok(Some(Performed {
        bind,
        listen,
        belongs,
    }))
}

fn first_call(
    stage: &mut Stage,
    judge: &mut Judge,
    case: &Case,
    socket: &Socket,
    port: u16,
    made: &[Made],
) -> Result<Outcome> {
    let holders = all(made);
    match case.wish {
        Wish::ThatPort => {
            let act = Act::bind(stage, case.new, socket, port)?;
            judge.try_call(stage, &act, socket, &holders)
        }
        Wish::AnyPort { autobind_reuse } => {
            stage.only(port)?;
            stage.autobind_reuse(autobind_reuse)?;
            let act = Act::bind(stage, case.new, socket, 0)?.choosing_only(port);
            let outcome = judge.try_call(stage, &act, socket, &holders);
            stage.autobind_reuse(false)?;
            outcome
        }
        Wish::ReservedPort => {
            stage.only(port)?;
            stage.reserve(Some(port))?;
            let act = Act::bind(stage, case.new, socket, 0)?.choosing_only(port);
            let outcome = judge.try_call(stage, &act, socket, &holders);
            stage.reserve(None)?;
            outcome
        }
        Wish::ListenOnly => {
            stage.only(port)?;
            let act = Act::listen(stage, case.new, socket)?.choosing_only(port);
            judge.try_call(stage, &act, socket, &holders)
        }
    }
}

/// Lets those listen that shall do so after the bind() of the socket in question.
fn listen_in_between(
    stage: &mut Stage,
    judge: &mut Judge,
    made: &mut [Made],
    ours: &Holder,
) -> Result<()> {
    for number in 0..made.len() {
        if made[number].old.kind.status != Status::ListenInBetween {
            continue;
        }
        let others: Vec<_> = made
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != number)
            .flat_map(|(_, one)| one.holders.iter().copied())
            .chain([*ours])
            .collect();
        let one = &made[number];
        let socket = one
            .socket
            .as_ref()
            .context("a holder without a descriptor")?;
        let mut act = Act::listen(stage, one.old.traits, socket)?;
        // As it is by now.
        act.request.asker.reuseaddr = one.holders[0].reuseaddr == Some(true);
        act.request.asker.reuseport = one.holders[0].reuseport == Some(true);
        if judge.perform(stage, &act, socket, &others)? == 0 {
            made[number].holders[0].state = TcpState::Listen;
        }
    }
    Ok(())
}

/// Whether the call fails without those that the rules do not call guilty, and with only one of those
/// that they do.
fn try_out(stage: &mut Stage, judge: &mut Judge, case: &Case, performed: &Performed) -> Result<()> {
    let failed = match &performed.listen {
        Some(listen) => listen,
        None => &performed.bind,
    };
    let Verdict::Fails { guilty, error, .. } = &failed.verdict else {
        return Ok(());
    };
    if guilty.is_empty() || failed.errno != *error {
        return Ok(());
    }
    judge.tally.guilty_sets += 1;
    let mut guilty: Vec<usize> = guilty.iter().map(|one| performed.belongs[*one]).collect();
    guilty.dedup();
    let in_listen = performed.listen.is_some();
    let mut expect = |keep: &[usize], errno: u16, why: &str| -> Result<()> {
        let left: Vec<Old> = (0..case.old.len())
            .filter(|number| !guilty.contains(number) || keep.contains(number))
            .map(|number| case.old[number])
            .collect();
        let again = Case {
            old: left,
            ..case.clone()
        };
        let Some(done) = perform(stage, judge, &again)? else {
            judge.differs(&format!("{why}: those that are left cannot be together"));
            return Ok(());
        };
        let observed = match (&done.listen, in_listen) {
            (Some(listen), true) => listen,
            _ => &done.bind,
        };
        if observed.errno != errno && !observed.by_cache {
            judge.differs(&format!(
                "{why}: the call gives {} instead of {errno} beside {:?}",
                observed.errno, again.old
            ));
        }
        Ok(())
    };
    expect(&[], 0, "without the guilty ones")?;
    for &one in &guilty {
        expect(&[one], *error, "with only one of the guilty ones")?;
    }
    Ok(())
}

fn all(made: &[Made]) -> Vec<Holder> {
    made.iter()
        .flat_map(|one| one.holders.iter().copied())
        .collect()
}
