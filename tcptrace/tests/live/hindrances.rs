//! Machines that lack something: single capabilities, any privileges, BTF, tracefs. What still works is
//! right, and what does not is told by a sentence that names what is missing and what to type.
//!
//! What takes a whole kernel to take away (lockdown, the switch of ftrace) is the matrix's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::lines::Report;
use crate::puppet::Puppet;
use crate::rights::{
    BPF, NET_ADMIN, NOBODY, PERFMON, Rights, SYS_ADMIN, SYS_PTRACE, SYS_RESOURCE, SYSLOG,
};
use crate::sockets::{Family, Socket};
use crate::tracer::{self, NOT_ALLOWED, Tracer};
use crate::{Needs, Scenario, netns, ports, sys};

const BTF: &str = "/sys/kernel/btf";
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug"];

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("hindrances: capabilities that a trace needs", needed),
        Scenario::new("hindrances: capabilities that it does without", not_needed),
        Scenario::new("hindrances: without CAP_SYSLOG", without_syslog),
        Scenario::new("hindrances: owners without CAP_SYS_PTRACE", owners),
        Scenario::new(
            "hindrances: a user with CAP_BPF and CAP_PERFMON",
            user_with_two,
        ),
        Scenario::new("hindrances: the setcap that it advises", advised_setcap),
        Scenario::new("hindrances: without privileges", unprivileged),
        Scenario::new("hindrances: without BTF", without_btf),
        Scenario::new("hindrances: without tracefs", without_tracefs),
        Scenario::new("hindrances: locked memory before 5.11", locked_memory),
    ]
    .into_iter()
    .map(|scenario| scenario.needing(Needs::Root))
    .collect()
}

/// What a run of the program came to.
struct Outcome {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    /// Of a command that ends by itself.
    fn of(command: &mut Command) -> Result<Self> {
        let output = command.output().context("cannot start tcptrace")?;
        Ok(Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// One sentence that has all these words, and the exit status that says that tracing is not possible.
    fn is_refusal(&self, words: &[&str]) -> Result<()> {
        let Self {
            status,
            stdout,
            stderr,
        } = self;
        ensure!(
            *status == Some(NOT_ALLOWED),
            "status {status:?}, not {NOT_ALLOWED}: {stdout}{stderr}"
        );
        has_all(stderr, words)?;
        ensure!(stderr.trim().lines().count() == 1, "one line: {stderr}");
        Ok(())
    }
}

fn has_all(text: &str, words: &[&str]) -> Result<()> {
    let missing = words.iter().find(|word| !text.contains(**word));
    match missing {
        Some(word) => bail!("{word:?} is not in: {text}"),
        None => Ok(()),
    }
}

/// Runs tcptrace to its end: a trace of a tenth of a second, unless it is told something else.
fn run(rights: &Rights, arguments: &[&str]) -> Result<Outcome> {
    run_program(&tracer::program(), rights, arguments)
}

fn run_program(program: &Path, rights: &Rights, arguments: &[&str]) -> Result<Outcome> {
    let arguments = match arguments.first() {
        Some(word) if !word.starts_with('-') => arguments.to_vec(),
        _ => [arguments, &["-d", "0.1"]].concat(),
    };
    Outcome::of(&mut rights.command(program, &arguments)?)
}

/// The report of `tcptrace doctor`.
fn doctor(rights: &Rights) -> Result<Value> {
    let outcome = run(rights, &["doctor", "--json"])?;
    serde_json::from_str(&outcome.stdout).with_context(|| format!("no report: {}", outcome.stderr))
}

/// What a check of the doctor found, and how it went.
fn check<'a>(report: &'a Value, name: &str) -> Result<(&'a str, &'a str)> {
    let checks = report["checks"].as_array().into_iter().flatten();
    let found = checks
        .into_iter()
        .find(|check| check["name"] == name)
        .with_context(|| format!("no check {name:?} in {report}"))?;
    let text = |field: &str| found[field].as_str().context("no text");
    Ok((text("status")?, text("found")?))
}

/// Whether this kernel lets root use fentry.
fn has_fentry() -> Result<bool> {
    static HAS: OnceLock<bool> = OnceLock::new();
    if let Some(has) = HAS.get() {
        return Ok(*has);
    }
    let report = doctor(&Rights::all())?;
    ensure!(report["can_trace"] == true, "root cannot trace: {report}");
    let backends = &report["backends"];
    let has = backends["time_wait"] == "fentry" && backends["calls"] == "fentry";
    Ok(*HAS.get_or_init(|| has))
}

/// Whether the kernel shows the addresses of its functions to CAP_SYSLOG alone: kernel/kallsyms.c
/// `kallsyms_show_value`, `kallsyms_for_perf` (v6.18).
fn hides_symbols() -> Result<bool> {
    let number = |name: &str| -> Result<i32> {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}"))?;
        Ok(text.trim().parse()?)
    };
    Ok(number("kptr_restrict")? != 0 || number("perf_event_paranoid")? > 1)
}

/// What a trace with some rights told of a connection that closes, and of a bind() that fails.
struct Seen {
    report: Report,
    said: String,
    port: u16,
}

/// Traces the scene. The client closes first: its TIME_WAIT begins, and is under way at the end.
fn trace(rights: &Rights, flags: &[&str]) -> Result<Seen> {
    trace_program(&tracer::program(), rights, flags)
}

fn trace_program(program: &Path, rights: &Rights, flags: &[&str]) -> Result<Seen> {
    let mut arguments = vec!["--json", "-N", "/proc/self/ns/net"];
    arguments.extend(flags);
    let tracer = Tracer::json_command(rights.command(program, &arguments)?)?;
    let port = ports::next();
    let listener = Family::V4.listener(port)?;
    let refused = Socket::new(false)?;
    ensure!(
        refused.bind(Family::V4.listens_on(port)).is_err(),
        "the port is taken"
    );
    let pair = Family::V4.pair(&listener, port)?;
    drop(pair.client);
    // Its FIN may take a moment: both would close at once.
    ensure!(pair.server.receive()? == 0, "the client has sent something");
    drop(pair.server);
    drop(listener);
    std::thread::sleep(tracer::RESET_MAY_FOLLOW);
    tracer.interrupt()?;
    let ended = tracer.wait()?;
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    let lines = ended.lines.into_iter().map(String::from_utf8);
    Ok(Seen {
        report: Report::parse(&lines.collect::<Result<Vec<String>, _>>()?)?,
        said: ended.stderr,
        port,
    })
}

impl Seen {
    fn backend(&self, need: &str) -> Option<&str> {
        self.report.start["backends"][need].as_str()
    }

    /// Both ends of the connection, as they closed; TIME_WAIT and the failed bind() exactly where the trace
    /// says that it sees such.
    fn is_right(&self) -> Result<()> {
        let Self { report, said, port } = self;
        let context = || format!("{said}; {}", report.start);
        let closes: Vec<(bool, &str)> = report
            .connections
            .iter()
            .map(|one| (one.ends.rport == *port, one.close.as_str()))
            .collect();
        let client = closes.iter().find(|(is_client, _)| *is_client);
        let server = closes.iter().find(|(is_client, _)| !*is_client);
        ensure!(
            client == Some(&(true, "local_first")) && server == Some(&(false, "remote_first")),
            "{closes:?}: {}",
            context()
        );
        let sees_time_wait = self.backend("time_wait").is_some();
        ensure!(
            report.entered.len() == usize::from(sees_time_wait),
            "TIME_WAIT, which is seen ({sees_time_wait}): {}",
            context()
        );
        let sees_calls = self.backend("calls").is_some();
        ensure!(
            report.calls_failed.len() == usize::from(sees_calls),
            "bind(), which is seen ({sees_calls}): {}",
            context()
        );
        ensure!(
            report.start["sysctls"]["net.ipv4.tcp_fin_timeout"].is_string(),
            "the settings of its own namespace: {}",
            report.start
        );
        if let Some(failed) = report.calls_failed.first() {
            ensure!(failed["errno"] == "EADDRINUSE", "{failed}");
        }
        if !sees_time_wait {
            has_all(&self.degraded(), &["TIME_WAIT is not seen"])?;
        }
        if !sees_calls {
            has_all(
                &self.degraded(),
                &["bind(), listen() and connect() are not seen"],
            )?;
        }
        Ok(())
    }

    /// What the trace says that it cannot see: the first line and the warnings say the same.
    fn degraded(&self) -> String {
        format!("{} {}", self.report.start["degraded"], self.said)
    }
}

/// Without CAP_SYS_ADMIN, which stands for both, each of the two is asked for by its name.
fn needed() -> Result<()> {
    netns::with_new(|_| {
        for (rights, missing, there) in [
            (
                Rights::without(&[SYS_ADMIN, PERFMON]),
                "needs CAP_PERFMON,",
                "CAP_BPF and",
            ),
            (
                Rights::without(&[SYS_ADMIN, BPF]),
                "needs CAP_BPF,",
                "and CAP_PERFMON,",
            ),
        ] {
            let outcome = run(&rights, &[])?;
            outcome.is_refusal(&[missing, "sudo"])?;
            ensure!(!outcome.stderr.contains(there), "{}", outcome.stderr);
        }
        run(&Rights::only(&[]), &[])?.is_refusal(&["needs CAP_BPF and CAP_PERFMON,"])?;
        let own = Rights::all().in_user_namespace();
        run(&own, &[])?.is_refusal(&["user namespace", "--userns host"])
    })
}

/// Either half of what stands for the other; and CAP_SYS_ADMIN alone (with what 5.10 charges memory against).
fn not_needed() -> Result<()> {
    netns::with_new(|_| {
        for (name, rights) in [
            (
                "CAP_SYS_ADMIN and CAP_NET_ADMIN",
                Rights::without(&[SYS_ADMIN, NET_ADMIN]),
            ),
            ("CAP_BPF and CAP_PERFMON", Rights::without(&[BPF, PERFMON])),
        ] {
            let seen = trace(&rights, &[])?;
            seen.is_right().with_context(|| format!("without {name}"))?;
            let time_wait = seen.backend("time_wait");
            ensure!(time_wait.is_some(), "without {name}: {}", seen.report.start);
            if seen.backend("calls").is_none() {
                // Kernels that have been made stricter than Linux is: then the setting must be named.
                ensure!(!has_fentry()?, "without {name}: {}", seen.report.start);
                has_all(&seen.degraded(), &["sysctl kernel.perf_event_paranoid=2"])?;
                let setting = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")?;
                ensure!(
                    setting.trim().parse::<i32>()? > 2,
                    "it is {setting}: {}",
                    seen.report.start
                );
            }
        }
        let seen = trace(&Rights::only(&[SYS_ADMIN, SYS_RESOURCE]), &[])?;
        seen.is_right().context("CAP_SYS_ADMIN alone")
    })
}

/// The kernel's symbols are hidden then: with fentry, what ends a TIME_WAIT early; with the timers, all of it. A
/// kernel may be set to show them to everybody: then nothing is missing.
fn without_syslog() -> Result<()> {
    let hides_symbols = hides_symbols()?;
    netns::with_new(|_| {
        let rights = Rights::without(&[SYSLOG]);
        let seen = trace(&rights, &[])?;
        seen.is_right()?;
        ensure!(seen.backend("calls").is_some(), "{}", seen.report.start);
        if !hides_symbols {
            ensure!(seen.backend("time_wait").is_some(), "{}", seen.report.start);
            ensure!(!seen.said.contains("CAP_SYSLOG"), "{}", seen.said);
            return Ok(());
        }
        let expected = has_fentry()?.then_some("fentry");
        ensure!(
            seen.backend("time_wait") == expected,
            "{}",
            seen.report.start
        );
        has_all(&seen.said, &["TIME_WAIT", "CAP_SYSLOG", "run as root"])?;
        run(&rights, &["--backend", "timer"])?.is_refusal(&["CAP_SYSLOG", "--backend auto"])?;
        let report = doctor(&rights)?;
        let (status, found) = check(&report, "more rights")?;
        ensure!(status == "degraded", "{report}");
        has_all(found, &["without CAP_SYSLOG"])
    })
}

/// The sockets of processes that have rights which the tracer has not.
fn owners() -> Result<()> {
    netns::with_new(|_| {
        let port = ports::next();
        let mut holder = Puppet::start()?;
        holder.listen(Family::V4.listens_on(port))?;
        let place = format!("127.0.0.1:{port}");
        let ask = |rights: &Rights| -> Result<(Value, String)> {
            let outcome = run(rights, &["explain", "--json", &place])?;
            let line: Value = serde_json::from_str(outcome.stdout.lines().next().unwrap_or(""))
                .with_context(|| format!("{}{}", outcome.stdout, outcome.stderr))?;
            Ok((line["holders"][0]["owner"]["pid"].clone(), outcome.stderr))
        };
        let (owner, _) = ask(&Rights::all())?;
        ensure!(owner == holder.pid(), "with all rights: {owner}");
        let (owner, said) = ask(&Rights::without(&[SYS_PTRACE]))?;
        ensure!(owner.is_null(), "without CAP_SYS_PTRACE: {owner}");
        has_all(
            &said,
            &["not all owners are known", "sudo tcptrace explain"],
        )
    })
}

/// They are enough for what takes no other: everything by fentry, transitions without it.
fn user_with_two() -> Result<()> {
    // 5.10 charges memory against a limit that only CAP_SYS_RESOURCE may raise.
    let rights = Rights::of_nobody(&[BPF, PERFMON, SYS_RESOURCE])?;
    netns::with_new(|_| with_two(&tracer::program(), &rights))
}

fn with_two(program: &Path, rights: &Rights) -> Result<()> {
    let seen = trace_program(program, rights, &[])?;
    seen.is_right()?;
    let expected = has_fentry()?.then_some("fentry");
    for need in ["time_wait", "calls"] {
        ensure!(
            seen.backend(need) == expected || !hides_symbols()?,
            "{need}: {}",
            seen.report.start
        );
    }
    if expected.is_none() {
        has_all(
            &seen.degraded(),
            &["only root may read tracefs", "CAP_DAC_READ_SEARCH"],
        )?;
    }
    if hides_symbols()? {
        has_all(&seen.said, &["CAP_SYSLOG"])?;
    }
    Ok(())
}

/// A copy of the program that everybody may run. It is gone with this.
struct Copy(PathBuf);

impl Copy {
    fn new(name: &str) -> Result<Self> {
        let directory =
            std::env::temp_dir().join(format!("tcptrace-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let copy = Self(directory);
        fs::copy(tracer::program(), copy.program())?;
        for path in [&copy.0, &copy.program()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(copy)
    }

    fn program(&self) -> PathBuf {
        self.0.join("tcptrace")
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What is left is a file in the directory for such.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `setcap cap_bpf,cap_perfmon+ep` as the sentence of an unprivileged user says, then the same user again.
fn advised_setcap() -> Result<()> {
    let copy = Copy::new("setcap")?;
    let nobody = Rights::of_nobody(&[])?;
    netns::with_new(|_| {
        run_program(&copy.program(), &nobody, &[])?.is_refusal(&["cap_bpf,cap_perfmon+ep"])?;
        sys::set_file_capabilities(&copy.program(), 1 << BPF | 1 << PERFMON)?;
        if sys::kernel_is_at_least(5, 11) {
            return with_two(&copy.program(), &nobody);
        }
        // There it takes more, which is told in turn.
        run_program(&copy.program(), &nobody, &[])?
            .is_refusal(&["limit of locked memory", "CAP_SYS_RESOURCE"])
    })
}

/// Not a trace, but an answer to what is missing; `explain` needs none (its own tests say how far).
fn unprivileged() -> Result<()> {
    let copy = Copy::new("nobody")?;
    netns::with_new(|_| {
        let run = |arguments: &[&str]| {
            let mut command = Command::new(copy.program());
            Outcome::of(
                command
                    .args(arguments)
                    .uid(NOBODY)
                    .gid(NOBODY)
                    .current_dir("/"),
            )
        };
        run(&[])?.is_refusal(&["CAP_BPF and CAP_PERFMON", "sudo", "setcap"])?;
        run(&["lab", "run", "--all"])?.is_refusal(&["run it as root"])?;
        let doctor = run(&["doctor", "--json"])?;
        ensure!(doctor.status == Some(NOT_ALLOWED), "{:?}", doctor.status);
        let report: Value = serde_json::from_str(&doctor.stdout)?;
        ensure!(report["can_trace"] == false, "{report}");
        ensure!(check(&report, "privileges")?.0 == "missing", "{report}");
        let explained = run(&["explain", "127.0.0.1:80"])?;
        ensure!(explained.status == Some(0), "{}", explained.stderr);
        has_all(&explained.stdout, &["ip_unprivileged_port_start"])
    })
}

/// Nothing can be read of the kernel's structures; `explain` has another way.
fn without_btf() -> Result<()> {
    let rights = Rights::all().hiding(&[BTF]);
    netns::with_new(|_| {
        let words = ["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF=y"];
        run(&rights, &[])?.is_refusal(&words)?;
        let report = doctor(&rights)?;
        ensure!(report["can_trace"] == false, "{report}");
        ensure!(check(&report, "BTF")?.0 == "missing", "{report}");
        let port = ports::next();
        let _listener = Family::V4.listener(port)?;
        let explained = run(&rights, &["explain", &format!("127.0.0.1:{port}")])?;
        ensure!(explained.status == Some(0), "{}", explained.stderr);
        let said = format!("{}{}", explained.stdout, explained.stderr);
        has_all(&said, &["EADDRINUSE", "/sys/kernel/btf/vmlinux"])
    })
}

/// fentry needs none, and CAP_SYS_ADMIN gets at it where it is not mounted.
fn without_tracefs() -> Result<()> {
    netns::with_new(|_| {
        let root = Rights::all().hiding(&TRACEFS);
        let syscalls = ["--backend", "timer", "--calls", "syscalls"];
        let seen = trace(&root, &syscalls)?;
        seen.is_right().context("as root")?;
        let used = (seen.backend("time_wait"), seen.backend("calls"));
        ensure!(used == (Some("timer"), Some("syscalls")), "{used:?}");
        ensure!(check(&doctor(&root)?, "tracefs")?.0 == "ok", "as root");

        let rights = Rights::without(&[SYS_ADMIN]).hiding(&TRACEFS);
        let mount = "mount -t tracefs tracefs /sys/kernel/tracing";
        run(&rights, &syscalls)?.is_refusal(&["tracefs is not mounted", mount])?;
        let seen = trace(&rights, &[])?;
        seen.is_right().context("without CAP_SYS_ADMIN")?;
        let expected = has_fentry()?.then_some("fentry");
        ensure!(seen.backend("calls") == expected, "{}", seen.report.start);
        if expected.is_none() {
            has_all(&seen.degraded(), &["tracefs is not mounted", mount])?;
        }
        Ok(())
    })
}

/// The limit of the process counts there, and CAP_SYS_RESOURCE may raise it.
fn locked_memory() -> Result<()> {
    netns::with_new(|_| {
        let rights = Rights::without(&[SYS_RESOURCE]);
        let outcome = run(&rights, &["--json"])?;
        if sys::kernel_is_at_least(5, 11) {
            ensure!(outcome.status == Some(0), "{}", outcome.stderr);
            return Ok(());
        }
        outcome.is_refusal(&["limit of locked memory", "ulimit -l unlimited"])
    })
}
