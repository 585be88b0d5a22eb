//! Owns the hooks of bind(), listen(), connect() and accept(), and the choice between their two backends,
//! which is made by really attaching.

use aya::{Btf, Ebpf};
use tcptrace_model::RecordKind;

use super::{
    hooks::{self, Hook, Link, Place},
    offsets::KernelTypes,
    syscalls,
};
use crate::host::tracefs::Tracefs;

/// How calls are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallsBackend {
    /// By the functions behind the system calls.
    Fentry,
    /// By the tracepoints of the system calls, which slow every system call of the machine.
    Syscalls,
}

impl CallsBackend {
    /// The name that output uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Syscalls => "syscalls",
        }
    }
}

/// Which backend is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calls {
    /// The best that this kernel allows.
    #[default]
    Auto,
    /// fentry and fexit, or nothing.
    Fentry,
    /// Tracepoints of system calls, or nothing.
    Syscalls,
    /// None.
    Off,
}

impl Calls {
    /// Whether it may come to programs on functions.
    #[must_use]
    pub fn may_be_fentry(self) -> bool {
        match self {
            Self::Auto | Self::Fentry => true,
            Self::Syscalls | Self::Off => false,
        }
    }
}

/// What watches calls.
pub(super) struct Watching {
    /// How; or why they are not watched.
    pub(super) backend: Result<CallsBackend, String>,
    /// Why it is not by functions; `None` when it is, or that was not asked for.
    pub(super) no_fentry: Option<String>,
    pub(super) links: Vec<Link>,
    /// What accept() is watched by.
    pub(super) accept: Option<CallsBackend>,
    /// Why the holders of ports are not listed; `None` when they are.
    pub(super) no_lists: Option<String>,
    /// The function that shows the holder which the kernel met first, if one is watched.
    pub(super) in_the_way: Option<&'static str>,
}

/// Programs that are attached, and why those that list holders are not, if so.
type Attached = (Vec<Link>, Option<String>);

/// Attaches the programs of calls. `offsets` says why they could not work on this kernel; `accepted` that
/// accept() is watched already.
pub(super) fn watch(
    asked: Calls,
    offsets: Result<(), String>,
    accepted: bool,
    ebpf: &mut Ebpf,
    types: &KernelTypes,
    btf: &Result<Btf, String>,
) -> Watching {
    let off = |why: String| Watching {
        backend: Err(why),
        no_fentry: None,
        links: Vec::new(),
        accept: accepted.then_some(CallsBackend::Fentry),
        no_lists: None,
        in_the_way: None,
    };
    if asked == Calls::Off {
        return off("--calls off".to_owned());
    }
    if let Err(why) = offsets {
        return off(why);
    }
    let mut no_fentry = None;
    if asked.may_be_fentry() {
        match attach_functions(ebpf, types, btf) {
            Ok((mut links, no_lists)) => {
                let in_the_way = in_the_way(types).into_iter().find_map(|hook| {
                    let link = hook.attach(ebpf, btf.as_ref().ok()).ok()?;
                    Some((hook.function()?, link))
                });
                let in_the_way = in_the_way.map(|(function, link)| {
                    links.push(link);
                    function
                });
                let accept = if accepted {
                    None
                } else {
                    hooks::accept(types).and_then(|hook| hook.attach(ebpf, btf.as_ref().ok()).ok())
                };
                let accepts = accepted || accept.is_some();
                links.extend(accept);
                return Watching {
                    backend: Ok(CallsBackend::Fentry),
                    no_fentry: None,
                    links,
                    accept: accepts.then_some(CallsBackend::Fentry),
                    no_lists,
                    in_the_way,
                };
            }
            Err(why) if asked == Calls::Fentry => return off(why),
            Err(why) => no_fentry = Some(why),
        }
    }
    match attach_syscalls(accepted, ebpf) {
        Ok((links, no_lists)) => Watching {
            backend: Ok(CallsBackend::Syscalls),
            no_lists,
            in_the_way: None,
            no_fentry,
            links,
            accept: Some(if accepted {
                CallsBackend::Fentry
            } else {
                CallsBackend::Syscalls
            }),
        },
        Err(why) => off(match no_fentry {
            Some(before) => format!("{before}; {why}"),
            None => why,
        }),
    }
}

const fn hook(program: &'static str, place: Place) -> Hook {
    Hook {
        program,
        place,
        kind: RecordKind::Call,
    }
}

/// One that lists holders.
const fn lister(program: &'static str, place: Place) -> Hook {
    Hook {
        program,
        place,
        kind: RecordKind::Holder,
    }
}

/// The functions with their numbers of arguments. Ends come first: a call that was seen to begin is seen to
/// end.
const FUNCTIONS: [(Hook, usize); 14] = [
    (hook("inet_bind_end", Place::Exit("inet_bind")), 3),
    (hook("inet6_bind_end", Place::Exit("inet6_bind")), 3),
    (hook("inet_listen_end", Place::Exit("inet_listen")), 2),
    (
        hook(
            "inet_stream_connect_end",
            Place::Exit("inet_stream_connect"),
        ),
        4,
    ),
    (
        lister("inet_csk_get_port", Place::Exit("inet_csk_get_port")),
        2,
    ),
    (
        lister("inet_hash_connect", Place::Exit("inet_hash_connect")),
        2,
    ),
    (
        lister("inet6_hash_connect", Place::Exit("inet6_hash_connect")),
        2,
    ),
    (hook("inet_bind", Place::Entry("inet_bind")), 3),
    (hook("inet6_bind", Place::Entry("inet6_bind")), 3),
    (hook("inet_listen", Place::Entry("inet_listen")), 2),
    (
        hook("inet_stream_connect", Place::Entry("inet_stream_connect")),
        4,
    ),
    (
        hook("security_socket_bind", Place::Exit("security_socket_bind")),
        3,
    ),
    (
        hook(
            "security_socket_listen",
            Place::Exit("security_socket_listen"),
        ),
        2,
    ),
    (
        hook(
            "security_socket_connect",
            Place::Exit("security_socket_connect"),
        ),
        3,
    ),
];

/// What may be missing: a kernel without IPv6, or without security modules.
const OPTIONAL: [&str; 6] = [
    "inet6_hash_connect",
    "inet6_bind_end",
    "inet6_bind",
    "security_socket_bind",
    "security_socket_listen",
    "security_socket_connect",
];

/// Those of the functions that the running kernel has; one that lists holders may be missing.
fn functions(types: &KernelTypes) -> Result<Vec<Hook>, String> {
    let mut found = Vec::new();
    for (hook, expected) in FUNCTIONS {
        let Some(function) = hook.function() else {
            continue;
        };
        match types.arguments(function) {
            Some(arguments) if arguments == expected => found.push(hook),
            None if OPTIONAL.contains(&hook.program) => {}
            _ if hook.kind == RecordKind::Holder => {}
            Some(arguments) => {
                return Err(format!(
                    "this kernel's {function} has {arguments} arguments, which this version does not know"
                ));
            }
            None => return Err(format!("this kernel has no function {function}")),
        }
    }
    Ok(found)
}

/// Why calls cannot be watched by the functions of a kernel with these types, as far as types tell; `None`
/// when they can.
#[must_use]
pub fn obstacle(types: &KernelTypes) -> Option<String> {
    functions(types).err()
}

/// What shows the socket in the way, the best first. Compilers may leave nothing of either that could be
/// attached to.
fn in_the_way(types: &KernelTypes) -> Vec<Hook> {
    let conflict = match types.arguments("inet_bind_conflict") {
        Some(5) => Some("inet_bind_conflict_5"),
        Some(6) => Some("inet_bind_conflict_6"),
        _ => None,
    }
    .map(|program| hook(program, Place::Exit("inet_bind_conflict")));
    let equal = (types.arguments("inet_rcv_saddr_equal") == Some(3))
        .then(|| hook("inet_rcv_saddr_equal", Place::Exit("inet_rcv_saddr_equal")));
    conflict.into_iter().chain(equal).collect()
}

fn attach_functions(
    ebpf: &mut Ebpf,
    types: &KernelTypes,
    btf: &Result<Btf, String>,
) -> Result<Attached, String> {
    let hooks = functions(types)?;
    let btf = btf.as_ref().map_err(Clone::clone)?;
    attach(&hooks, ebpf, Some(btf))
}

/// The system calls: programs and their tracepoints, of which one program may have several. Programs on one tracepoint run in the order in which they
/// are attached (kernel/bpf/core.c `bpf_prog_array_copy`, v6.18): holders are listed first. Ends come before
/// beginnings, as above.
const SYSCALLS: [(&str, &str, RecordKind); 9] = [
    ("list_for_call", "sys_exit_bind", RecordKind::Holder),
    ("list_for_call", "sys_exit_listen", RecordKind::Holder),
    ("list_for_call", "sys_exit_connect", RecordKind::Holder),
    ("sys_exit_call", "sys_exit_bind", RecordKind::Call),
    ("sys_exit_call", "sys_exit_listen", RecordKind::Call),
    ("sys_exit_call", "sys_exit_connect", RecordKind::Call),
    ("sys_enter_bind", "sys_enter_bind", RecordKind::Call),
    ("sys_enter_listen", "sys_enter_listen", RecordKind::Call),
    ("sys_enter_connect", "sys_enter_connect", RecordKind::Call),
];
const ACCEPTS: [(&str, &str, RecordKind); 2] = [
    ("sys_exit_accept", "sys_exit_accept", RecordKind::Accept),
    ("sys_exit_accept", "sys_exit_accept4", RecordKind::Accept),
];

fn attach_syscalls(accepted: bool, ebpf: &mut Ebpf) -> Result<Attached, String> {
    let tracefs = Tracefs::open()?;
    let hooks = SYSCALLS
        .into_iter()
        .chain(ACCEPTS.into_iter().filter(|_| !accepted))
        .map(|(program, tracepoint, kind)| {
            Ok(Hook {
                program,
                place: Place::Syscall(tracepoint, syscalls::find(&tracefs, tracepoint)?),
                kind,
            })
        })
        .collect::<Result<Vec<Hook>, String>>()?;
    attach(&hooks, ebpf, None)
}

/// Attaches those that list holders, if the kernel lets them, and then all others.
fn attach(hooks: &[Hook], ebpf: &mut Ebpf, btf: Option<&Btf>) -> Result<Attached, String> {
    let (listers, others): (Vec<Hook>, Vec<Hook>) = hooks
        .iter()
        .partition(|hook| hook.kind == RecordKind::Holder);
    let (mut links, no_lists) = match hooks::attach_all(&listers, ebpf, btf) {
        Ok(links) => (links, None),
        Err(refused) => (Vec::new(), Some(refused.to_string())),
    };
    match hooks::attach_all(&others, ebpf, btf) {
        Ok(others) => links.extend(others),
        Err(refused) => {
            for link in links {
                // What cannot be taken off lists for nobody; that the others were refused counts.
                let _ = link.detach(ebpf);
            }
            return Err(refused.to_string());
        }
    }
    Ok((links, no_lists))
}
