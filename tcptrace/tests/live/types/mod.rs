//! The kernel's types as the tracer reads them: all that it needs is found, and whatever is changed in them
//! is named. Offline, on the running kernel's BTF and on every `*.btf` of the folder that the variable
//! [`FOLDER`] names; what only shows at the start of a trace is in `self_check`.

mod rewrite;
mod start;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use tcptrace::bpf::{calls, hooks, offsets::KernelTypes};

use self::rewrite::Types;
use crate::{Needs, Scenario};

/// The variable with the folder of more BTF to look at.
const FOLDER: &str = "TCPTRACE_BTF_DIR";
/// The running kernel's own.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// A field that the programs read, and who cannot do without it.
struct Field {
    structure: &'static str,
    path: &'static str,
    user: User,
}

/// What needs a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    /// Tracing.
    Trace,
    /// The programs of calls.
    Calls,
    /// The list of who holds a port.
    Holders,
    /// Some kernels have it, or have it elsewhere: without it tracing works.
    Nobody,
}

impl Field {
    const fn new(structure: &'static str, path: &'static str, user: User) -> Self {
        Self {
            structure,
            path,
            user,
        }
    }

    /// Its own name; that of what it is in, for the pointer to a namespace.
    fn name(&self) -> &'static str {
        let names = self.path.strip_suffix(".net").unwrap_or(self.path);
        names.rsplit('.').next().unwrap_or(names)
    }
}

/// Every field of `Offsets`, `CallOffsets` and `BucketOffsets` of tcptrace-common.
fn fields() -> Vec<Field> {
    use User::{Calls, Holders, Nobody, Trace};
    let common = [
        "skc_family",
        "skc_dport",
        "skc_daddr",
        "skc_rcv_saddr",
        "skc_num",
        "skc_prot",
        "skc_net.net",
        "skc_cookie",
        "skc_reuse",
        "skc_reuseport",
        "skc_flags",
        "skc_state",
    ];
    let mut fields: Vec<Field> = common
        .map(|name| Field::new("sock_common", name, Trace))
        .into();
    for (structure, paths, user) in [
        (
            "sock_common",
            &["skc_v6_daddr", "skc_v6_rcv_saddr"][..],
            Nobody,
        ),
        (
            "sock",
            &[
                "sk_protocol",
                "sk_uid",
                "sk_cgrp_data",
                "sk_err",
                "sk_shutdown",
                "sk_socket",
                "sk_lingertime",
            ],
            Trace,
        ),
        ("socket", &["file"], Trace),
        ("file", &["f_ref", "f_count"], Nobody),
        ("inet_connection_sock", &["icsk_user_timeout"], Trace),
        ("tcp_sock", &["linger2"], Trace),
        (
            "task_struct",
            &["flags", "exit_code", "pid", "tgid", "comm"],
            Trace,
        ),
        ("inet_timewait_sock", &["tw_substate", "tw_timer"], Trace),
        ("inet_timewait_sock", &["tw_entry_stamp"], Nobody),
        ("tcp_timewait_sock", &["tw_ts_recent_stamp"], Trace),
        ("timer_list", &["expires", "function"], Trace),
        ("inet_sock", &["inet_saddr", "inet_sport"], Trace),
        ("net", &["ns.inum"], Trace),
        ("cgroup", &["kn"], Trace),
        ("kernfs_node", &["id"], Trace),
        ("kernfs_node", &["__parent", "parent"], Nobody),
        ("sock_common", &["skc_bound_dev_if"], Calls),
        ("sock_common", &["skc_ipv6only"], Nobody),
        ("sock", &["sk_userlocks", "sk_reuseport_cb"], Calls),
        (
            "inet_sock",
            &[
                "freebind",
                "transparent",
                "bind_address_no_port",
                "inet_flags",
            ],
            Nobody,
        ),
        ("inet_sock", &["local_port_range"], Nobody),
        ("socket", &["sk"], Calls),
        ("file", &["private_data", "f_flags"], Calls),
        ("task_struct", &["files"], Calls),
        ("files_struct", &["fdt"], Calls),
        ("fdtable", &["max_fds", "fd"], Calls),
        ("task_struct", &["cred"], Nobody),
        ("cred", &["cap_effective", "euid", "user_ns"], Nobody),
        ("net", &["user_ns"], Nobody),
        ("user_namespace", &["parent", "level", "owner"], Nobody),
        ("net", &["hash_mix", "ipv4.tcp_death_row"], Holders),
        ("inet_timewait_death_row", &["hashinfo"], Holders),
        ("inet_hashinfo", &["bhash", "bhash_size"], Holders),
        ("inet_bind_hashbucket", &["chain"], Holders),
        (
            "inet_bind_bucket",
            &["ib_net", "l3mdev", "port", "node"],
            Holders,
        ),
        ("inet_bind_bucket", &["owners", "bhash2"], Nobody),
        ("inet_bind2_bucket", &["bhash_node", "owners"], Nobody),
        ("sock_common", &["skc_bind_node"], Holders),
        ("socket_alloc", &["vfs_inode", "socket"], Holders),
        ("inode", &["i_ino", "i_uid"], Holders),
        ("task_struct", &["nsproxy"], Holders),
        ("nsproxy", &["net_ns"], Holders),
    ] {
        fields.extend(paths.iter().map(|path| Field::new(structure, path, user)));
    }
    fields
}

pub(crate) fn scenarios() -> Vec<Scenario> {
    let offline = |name: &str, test: fn(&Types) -> Result<()>| {
        Scenario::new(format!("types: {name}"), move || everywhere(test)).needing(Needs::Types)
    };
    let mut scenarios = vec![
        offline("all that is needed is found", all_found),
        offline("a field that lies elsewhere is named", moved_fields),
        offline("a field that is gone is named", missing_fields),
        offline("other arguments of a function are named", other_arguments),
        offline("a function that is gone is named", missing_functions),
    ];
    scenarios.extend(start::scenarios());
    scenarios
}

/// Why there are no types to look at.
pub(crate) fn obstacle() -> Option<String> {
    fs::File::open(VMLINUX)
        .err()
        .map(|error| format!("cannot read {VMLINUX}: {error}"))
}

/// Runs a test on each kernel's types.
fn everywhere(test: fn(&Types) -> Result<()>) -> Result<()> {
    let mut files = vec![PathBuf::from(VMLINUX)];
    if let Some(folder) = std::env::var_os(FOLDER) {
        for entry in
            fs::read_dir(&folder).with_context(|| format!("{FOLDER}={}", folder.display()))?
        {
            let path = entry?.path();
            if path.extension() == Some(OsStr::new("btf")) {
                files.push(path);
            }
        }
    }
    for file in files {
        let bytes = fs::read(&file).with_context(|| file.display().to_string())?;
        Types::parse(bytes)
            .and_then(|types| test(&types))
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// A file with these types, gone when it is dropped.
struct TypesFile(PathBuf);

impl TypesFile {
    fn new(types: &Types) -> Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "tcptrace-types-{}-{}.btf",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::write(&path, types.bytes()).context("cannot write changed types")?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TypesFile {
    fn drop(&mut self) {
        // It lies in a folder for such files.
        let _ = fs::remove_file(&self.0);
    }
}

/// What is said of the fields of these types: for whom, and what.
fn told(types: &Types) -> Result<Vec<(User, String)>> {
    let file = TypesFile::new(types)?;
    let read = KernelTypes::of(Some(file.path()))?;
    let mut told = Vec::new();
    let mut add = |user, result: Result<()>| {
        told.extend(result.err().map(|error| (user, format!("{error:#}"))));
    };
    add(User::Trace, read.offsets().map(|_| ()));
    add(User::Calls, read.call_offsets().map(|_| ()));
    add(User::Holders, read.bucket_offsets().map(|_| ()));
    Ok(told)
}

fn all_found(types: &Types) -> Result<()> {
    let told = told(types)?;
    ensure!(told.is_empty(), "{told:?}");
    let file = TypesFile::new(types)?;
    let read = KernelTypes::of(Some(file.path()))?;
    ensure!(read.has_tracepoint("inet_sock_set_state"), "no tracepoint");
    for (what, obstacle) in [
        ("minisockets", hooks::obstacle(&read)),
        ("calls", calls::obstacle(&read)),
    ] {
        ensure!(obstacle.is_none(), "{what}: {obstacle:?}");
    }
    Ok(())
}

/// A field that is moved by 8 bytes lies where another one is, or outside. Where it does not, it is the
/// check at the start that finds it.
fn moved_fields(types: &Types) -> Result<()> {
    let mut in_a_hole = Vec::new();
    let mut wrong = Vec::new();
    for field in fields() {
        let Some(member) = types.member(field.structure, field.path) else {
            continue;
        };
        let mut changed = types.clone();
        changed.shift(member, 8)?;
        let told = told(&changed)?;
        let name = field.name();
        if told.is_empty() {
            in_a_hole.push(name);
        } else if !told.iter().any(|(_, sentence)| sentence.contains(name)) {
            wrong.push(format!("{name}: {told:?}"));
        }
    }
    ensure!(wrong.is_empty(), "told of something else: {wrong:#?}");
    eprintln!("moved without overlapping another field: {in_a_hole:?}");
    Ok(())
}

fn missing_fields(types: &Types) -> Result<()> {
    let mut wrong = Vec::new();
    for field in fields() {
        let Some(member) = types.member(field.structure, field.path) else {
            ensure!(
                field.user == User::Nobody,
                "there is no {} in struct {}",
                field.path,
                field.structure
            );
            continue;
        };
        if field.user == User::Nobody {
            continue;
        }
        let mut changed = types.clone();
        changed.rename(member);
        let told = told(&changed)?;
        let name = field.name();
        if !(told.iter()).any(|(user, sentence)| *user == field.user && sentence.contains(name)) {
            wrong.push(format!("{name}: {told:?}"));
        }
    }
    ensure!(wrong.is_empty(), "not named: {wrong:#?}");
    Ok(())
}

/// What is said of the functions of these types.
fn told_of_functions(types: &Types) -> Result<[Option<String>; 2]> {
    let file = TypesFile::new(types)?;
    let read = KernelTypes::of(Some(file.path()))?;
    Ok([hooks::obstacle(&read), calls::obstacle(&read)])
}

fn other_arguments(types: &Types) -> Result<()> {
    for (function, of) in [
        ("tcp_timewait_state_process", 0),
        ("inet_bind", 1),
        ("inet_listen", 1),
        ("inet_stream_connect", 1),
    ] {
        let mut changed = types.clone();
        let known = types.arguments(function).unwrap_or(0);
        if !changed.give_arguments(function, known + 6)? {
            continue;
        }
        let told = told_of_functions(&changed)?;
        let sentence = told[of].as_deref().unwrap_or("nothing");
        ensure!(
            sentence.contains(function) && sentence.contains(&format!("{} arguments", known + 6)),
            "{function}: {sentence}"
        );
    }
    Ok(())
}

fn missing_functions(types: &Types) -> Result<()> {
    for (functions, of) in [
        (&["tcp_timewait_state_process"][..], 0),
        (&["inet_twsk_hashdance_schedule", "inet_twsk_hashdance"], 0),
        (&["inet_bind"], 1),
        (&["inet_stream_connect"], 1),
    ] {
        let mut changed = types.clone();
        for function in functions {
            changed.rename_function(function);
        }
        let told = told_of_functions(&changed)?;
        let sentence = told[of].as_deref().unwrap_or("nothing");
        ensure!(sentence.contains(functions[0]), "{functions:?}: {sentence}");
    }
    Ok(())
}
