//! What the start of a trace finds of types that are wrong, each in a file of its own: every field that lies
//! elsewhere is named before anything is shown.

use std::{fs, io::Read as _};

use anyhow::{Context, Result, ensure};
use tcptrace::bpf::offsets::KernelTypes;

use super::{Field, TypesFile, User, VMLINUX, fields, rewrite::Types, told};
use crate::{
    Needs, PATIENCE, Scenario, netns,
    tracer::{NOT_ALLOWED, Process, command},
};

/// Fields on the way to others, which a kernel must still have where one beside them is moved.
const KEPT: [&str; 14] = [
    "__sk_common",
    "inet_conn",
    "icsk_inet",
    "sk",
    "tw_sk",
    "ns",
    "ipv4",
    "skc_net",
    "ib_net",
    "socket",
    "vfs_inode",
    "cap_effective",
    "inet",
    "tw_timer",
];

/// Fields whose values nothing at the start of a trace depends on, so that only where they lie can be
/// checked, and why.
const NO_VALUE: [(&str, &str); 15] = [
    ("skc_net", "the only field of its structure"),
    ("sk_uid", "0 for root, as what lies beside it may be"),
    (
        "flags",
        "none of the bits that count is set in a task that traces",
    ),
    (
        "skc_prot",
        "any value makes the programs ask sk_protocol instead",
    ),
    (
        "icsk_user_timeout",
        "read when a connection has timed out only",
    ),
    ("exit_code", "read of a task that ends only"),
    ("pid", "read without a helper only, so not with --btf"),
    ("tgid", "likewise"),
    ("comm", "likewise"),
    ("__parent", "read by the filter on cgroups only"),
    ("parent", "read by the filter on cgroups only"),
    ("function", "read by the tracepoints of timers only"),
    (
        "sk_cgrp_data",
        "a socket without a cgroup of its own is no error",
    ),
    ("kn", "likewise"),
    ("id", "likewise"),
];
/// The same on kernels that do not stamp minisockets (before 6.14).
const UNSTAMPED: &str = "tw_ts_recent_stamp";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("self-check: the types as they are", as_they_are),
        Scenario::new("self-check: a field that overlaps another one", overlapping),
        Scenario::new("self-check: a field whose value is wrong", wrong_values),
        Scenario::new("self-check: other arguments of a function", other_arguments)
            .needing(Needs::Fentry),
        Scenario::new("self-check: a function that is gone", missing_function)
            .needing(Needs::Fentry),
    ]
}

fn types() -> Result<Types> {
    Types::parse(fs::read(VMLINUX).context(VMLINUX)?)
}

/// What became of a short trace with these types: its exit status, and what it said on stderr.
fn trace(types: &Types, flags: &[&str]) -> Result<(Option<i32>, String)> {
    let file = TypesFile::new(types)?;
    let path = file.path().to_str().context("a name in UTF-8")?;
    let first = [
        "--json",
        "-N",
        "/proc/self/ns/net",
        "-d",
        "0.01",
        "--btf",
        path,
    ];
    let (mut process, mut stdout) = Process::start(command(&first, flags))?;
    let mut shown = String::new();
    stdout.read_to_string(&mut shown)?;
    let status = process.wait(PATIENCE)?;
    // The tracer's own sockets are not for showing, whatever the check says.
    ensure!(
        !shown.contains(r#""kind":"transition""#),
        "the idle namespace shows {shown}"
    );
    Ok((status.code(), process.stderr()))
}

fn as_they_are() -> Result<()> {
    netns::with_new(|_| {
        let types = types()?;
        let (status, said) = trace(&types, &[])?;
        ensure!(status == Some(0), "{said}");
        ensure!(!said.contains("check"), "{said}");
        Ok(())
    })
}

/// Whether it is told, by name: as the reason to refuse, or as what is not seen.
fn is_found(field: &Field, status: Option<i32>, said: &str) -> bool {
    said.contains(field.name()) && matches!(status, Some(0 | NOT_ALLOWED))
}

fn overlapping() -> Result<()> {
    netns::with_new(|_| {
        let types = types()?;
        let mut unnamed = Vec::new();
        for field in fields() {
            let Some(member) = types.member(field.structure, field.path) else {
                continue;
            };
            let mut changed = types.clone();
            changed.shift(member, 8)?;
            if told(&changed)?.is_empty() {
                // By its value, below.
                continue;
            }
            let (status, said) = trace(&changed, &[])?;
            if !is_found(&field, status, &said) {
                unnamed.push(format!("{}: {status:?}: {said}", field.path));
            }
        }
        ensure!(unnamed.is_empty(), "{unnamed:#?}");
        Ok(())
    })
}

/// These types with the field elsewhere, so that nothing but its value can show it; `None` where there is no
/// room for that.
fn lying(types: &Types, field: &Field) -> Result<Option<Types>> {
    let Some(member) = types.member(field.structure, field.path) else {
        return Ok(None);
    };
    for bytes in [8, -8, 16, -16, 4, -4, 2, -2] {
        let mut changed = types.clone();
        if changed.shift(member, bytes).is_err() {
            continue;
        }
        changed.blur(member, &KEPT);
        if told(&changed)?.is_empty() {
            return Ok(Some(changed));
        }
    }
    Ok(None)
}

fn wrong_values() -> Result<()> {
    netns::with_new(|_| {
        let types = types()?;
        let stamped = types
            .member("inet_timewait_sock", "tw_entry_stamp")
            .is_some();
        let mut unnamed = Vec::new();
        for field in fields().iter().filter(|field| field.user == User::Trace) {
            let name = field.name();
            if NO_VALUE.iter().any(|(exempt, _)| *exempt == name) || (name == UNSTAMPED && !stamped)
            {
                continue;
            }
            let Some(changed) = lying(&types, field)? else {
                unnamed.push(format!("{}: no room to move it", field.path));
                continue;
            };
            let (status, said) = trace(&changed, &[])?;
            if !is_found(field, status, &said) {
                unnamed.push(format!("{}: {status:?}: {said}", field.path));
            }
        }
        ensure!(unnamed.is_empty(), "{unnamed:#?}");
        Ok(())
    })
}

/// The programs know three numbers of arguments. With a wrong one of these the return value is another
/// argument, which loads and runs.
fn other_arguments() -> Result<()> {
    const FUNCTION: &str = "tcp_timewait_state_process";
    netns::with_new(|_| {
        let types = types()?;
        let right = types.arguments(FUNCTION).context(FUNCTION)?;
        for wrong in [3, 4, 5].into_iter().filter(|count| *count != right) {
            let mut changed = types.clone();
            changed.give_arguments(FUNCTION, wrong)?;
            let (status, said) = trace(&changed, &["--backend", "fentry", "--calls", "off"])?;
            ensure!(
                status == Some(NOT_ALLOWED) && said.contains(FUNCTION),
                "{wrong} arguments instead of {right}: {status:?}: {said}"
            );
        }
        Ok(())
    })
}

/// Without a function that it needs, auto takes the timers, and says which.
fn missing_function() -> Result<()> {
    const FUNCTION: &str = "tcp_timewait_state_process";
    netns::with_new(|_| {
        let mut types = types()?;
        ensure!(types.rename_function(FUNCTION), "no {FUNCTION}");
        let file = TypesFile::new(&types)?;
        ensure!(
            KernelTypes::of(Some(file.path()))?
                .arguments(FUNCTION)
                .is_none()
        );
        let (status, said) = trace(&types, &["--backend", "fentry"])?;
        ensure!(
            status == Some(NOT_ALLOWED) && said.contains(&format!("no function {FUNCTION}")),
            "{status:?}: {said}"
        );
        let (status, said) = trace(&types, &["--backend", "auto"])?;
        ensure!(status == Some(0), "{status:?}: {said}");
        Ok(())
    })
}
