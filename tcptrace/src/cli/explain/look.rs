//! Owns the look at the machine: who holds the port, the settings of the namespace, whether the address is
//! one of the host's. Nothing is changed by it: no socket of this process ever gets the port.

use std::{io, net::SocketAddr, os::fd::AsRawFd, path::Path};

use anyhow::{Context, anyhow};
use socket2::{Domain, Socket, Type};
use tcptrace_common::{HolderLimit, TcpState};
use tcptrace_model::{
    EndedBy, Input, ListedHolder, Listing, OptionsSource, Phase,
    conflict::{Address, Holder, KernelVersion, PortUse},
};

use super::question::{Question, Who};
use crate::{
    bpf::{
        decode::{self, Decoder},
        holders::Lister,
        offsets::KernelTypes,
        preflight,
    },
    cli::args::explain::ExplainArgs,
    failure::Failure,
    host::{
        bind_sysctls::{self, Settings},
        capabilities::Capabilities,
        clock, interface, kernel_version,
        netns::Namespace,
        port_sockets::{self, Listed},
        port_use, process,
    },
};

/// The address of the socket that asks: there is none, and no socket of the kernel has this one.
pub(super) const ASKER: u64 = 1;

/// What was seen.
pub(super) struct Seen {
    /// CLOCK_BOOTTIME in ns.
    pub(super) ts_ns: u64,
    /// Inode number of the network namespace.
    pub(super) netns: u32,
    pub(super) settings: Settings,
    pub(super) kernel: KernelVersion,
    /// The kernel's ticks per second; `None` when not known.
    pub(super) hz: Option<u32>,
    /// Who holds the port.
    pub(super) holders: Vec<Held>,
    pub(super) listing: Listing,
    /// Where their options are known from.
    pub(super) options: OptionsSource,
    /// How the automatic ports are used, when one of them is asked for.
    pub(super) ports: Option<PortUse>,
    /// What could not be seen, a sentence each.
    pub(super) notes: Vec<String>,
    /// The same command with all privileges.
    pub(super) as_root: String,
}

/// A socket that holds the port.
pub(super) struct Held {
    pub(super) listed: ListedHolder,
    /// Inode number of its file.
    pub(super) inode: Option<u32>,
}

/// Looks at all that the question needs, in `namespace` or in this process's own.
pub(super) fn look(
    args: &ExplainArgs,
    namespace: Option<&Namespace>,
) -> Result<(Vec<Question>, Seen), Failure> {
    match namespace {
        None => look_here(args),
        Some(namespace) => namespace
            .inside(|| look_here(args))
            .map_err(|error| not_entered(namespace, error))?,
    }
}

fn not_entered(namespace: &Namespace, error: io::Error) -> Failure {
    let path = namespace.path.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::Unsupported(format!(
            "cannot enter network namespace {path}: {error}; type: {}",
            as_root()
        )),
        _ => {
            Failure::Other(anyhow!(error).context(format!("cannot enter network namespace {path}")))
        }
    }
}

/// Looks at the namespace of the calling thread.
fn look_here(args: &ExplainArgs) -> Result<(Vec<Question>, Seen), Failure> {
    let port = args.place.port;
    let namespace = Namespace::own().map_err(|why| Failure::Other(anyhow!(why)))?;
    let who = who(args, &namespace)?;
    let mut questions = Question::all(&args.place, &args.socket, who);
    let mut notes = Vec::new();
    let has_ipv6 = Socket::new(Domain::IPV6, Type::STREAM, None).is_ok();
    if !has_ipv6 && questions.len() > 1 {
        questions.retain(|question| question.asked.addr.is_ipv4());
        notes.push("this kernel has no IPv6, so only 0.0.0.0 was asked for".to_owned());
    }
    for question in &mut questions {
        question.address = is_local(question);
    }
    let settings = bind_sysctls::read_here();
    let kernel =
        kernel_version::KernelVersion::running().context("cannot read the kernel's version")?;
    let mut seen = Seen {
        ts_ns: clock::boottime_ns(),
        netns: namespace.inode,
        settings,
        kernel: (&kernel).into(),
        hz: clock::hz().ok(),
        holders: Vec::new(),
        listing: Listing::Whole,
        options: OptionsSource::Kernel,
        ports: None,
        notes,
        as_root: as_root(),
    };
    if port == 0 {
        count_ports(&mut seen);
    } else if let Err(why) = list_by_kernel(&mut seen, port, who.device, args.types.btf.as_deref())
    {
        if args.types.btf.is_some() {
            return Err(Failure::Unsupported(why));
        }
        list_without_options(&mut seen, port, &why)?;
    }
    Ok((questions, seen))
}

/// The same command with all privileges, to be typed.
fn as_root() -> String {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .map(|word| crate::render::notice::harmless(&word))
        .collect();
    format!("sudo tcptrace {}", words.join(" "))
}

fn who(args: &ExplainArgs, namespace: &Namespace) -> Result<Who, Failure> {
    let own = process::effective_uid();
    let uid = args.socket.uid.unwrap_or(own);
    let may_bind_privileged = if uid == own {
        Capabilities::own().may_bind_privileged() && namespace.is_within_reach()
    } else {
        // Of another user's process nothing is known: what users have by default counts.
        uid == 0
    };
    let index = |name: Option<&String>| {
        name.map_or(Ok(0), |name| {
            interface_index(name).ok_or_else(|| {
                Failure::Usage(format!(
                    "there is no interface {name:?} in this network namespace; list them with: ip link"
                ))
            })
        })
    };
    Ok(Who {
        uid,
        may_bind_privileged: Some(may_bind_privileged),
        device: index(args.socket.device.as_ref())?,
        scope: index(args.place.zone.as_ref())?,
    })
}

/// The index of an interface; a number is one.
fn interface_index(name: &str) -> Option<u32> {
    if let Ok(index) = name.parse() {
        return Some(index);
    }
    interface::index(name).ok()
}

/// Whether the address is one of the host's, by asking the kernel: a socket is bound to it, without a port.
/// `None` when the kernel does not come to that.
fn is_local(question: &Question) -> Option<Address> {
    let domain = if question.asked.addr.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::STREAM, None).ok()?;
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).ok()?;
    // SAFETY: setsockopt(2) reads as many bytes as it is told, from an integer that lives as long.
    let without_port = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            length,
        )
    };
    if without_port != 0 {
        return None;
    }
    let mut address = question.asked.addr;
    address.set_port(0);
    if let SocketAddr::V6(address) = &mut address {
        address.set_scope_id(question.asked.scope);
    }
    match socket.bind(&address.into()) {
        Ok(()) => Some(Address::Local),
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Some(Address::Foreign),
        Err(_) => None,
    }
}

fn count_ports(seen: &mut Seen) {
    match port_use::list_here(&clock::boottime_ns) {
        Ok(holders) => {
            seen.ports =
                Some(holders.count(&seen.settings.sysctls, &seen.settings.reserved, None, None));
        }
        Err(why) => seen
            .notes
            .push(format!("the automatic ports could not be counted: {why}")),
    }
}

/// Whether root would see more.
fn lacks_privileges() -> bool {
    !Capabilities::own().missing_for_tracing().is_empty()
}

/// Lists the holders from the kernel's own table.
///
/// # Errors
/// Why that cannot be done.
fn list_by_kernel(
    seen: &mut Seen,
    port: u16,
    device: u32,
    btf: Option<&Path>,
) -> Result<(), String> {
    let machine = preflight::Machine::probe().with_types(btf);
    let checks = machine.checks(Lister::BUFFER_BYTES);
    if let Some(check) = (checks.iter()).find(|check| check.status == preflight::Status::Missing) {
        return Err(if lacks_privileges() {
            check.found.clone()
        } else {
            check.sentence()
        });
    }
    let list = || {
        let types = KernelTypes::of(btf)?;
        let mut lister = Lister::load(&types)?;
        let decoder = Decoder {
            tick_ns: 1_000_000_000 / u64::from(seen.hz.unwrap_or(1000).max(1)),
            boot_offset_ns: 0,
            reset_reasons: Vec::new(),
            ended_by: Box::new(|_| EndedBy::Unknown),
        };
        let mut holders = Vec::new();
        let cut = lister.list(port, device, |record| {
            let Ok(read) = decoder.record(record) else {
                return false;
            };
            if let Input::Holder(mut listed) = read.input {
                listed.asker = ASKER;
                let inode = decode::inode_of(record);
                holders.push(Held { listed, inode });
            }
            true
        })?;
        Ok((holders, cut))
    };
    let (holders, cut) = list().map_err(|error: anyhow::Error| format!("{error:#}"))?;
    if cut {
        seen.notes.push(format!(
            "more sockets hold the port than can be listed: {} were looked at, and all that listen or are only bound among the first 65,000",
            holders.len()
        ));
    }
    seen.holders = holders;
    seen.listing = if cut { Listing::Cut } else { Listing::Whole };
    seen.ts_ns = clock::boottime_ns();
    Ok(())
}

/// Lists the holders by sock_diag, which needs no privileges and does not know their options.
fn list_without_options(seen: &mut Seen, port: u16, why: &str) -> Result<(), Failure> {
    let mut sockets = port_sockets::list_here(port, &clock::boottime_ns)
        .map_err(|trouble| Failure::Unsupported(format!("{why}; and {trouble}")))?;
    let total = sockets.len();
    let most = HolderLimit::ALL as usize;
    if total > most {
        sockets.sort_by_key(|one| !matches!(one.state, TcpState::Listen | TcpState::Close));
        sockets.truncate(most);
        seen.notes.push(format!(
            "{total} sockets hold the port; {most} were looked at, first those that listen or are only bound"
        ));
    }
    let shows_bound = (seen.kernel.major, seen.kernel.minor) >= (6, 8);
    seen.listing = if shows_bound && total <= most {
        Listing::Whole
    } else {
        Listing::Cut
    };
    seen.options = OptionsSource::Unknown;
    seen.holders = sockets.iter().map(|one| held(one, seen.netns)).collect();
    let mut lacks = Vec::new();
    if !sockets.is_empty() {
        lacks.push("SO_REUSEADDR and SO_REUSEPORT of the sockets are not known");
    }
    if !shows_bound {
        lacks.push("sockets that are only bound are not seen (from Linux 6.8 on they are)");
    }
    if !lacks.is_empty() {
        let lacks = lacks.join(", and ");
        let mut note = format!("{lacks}, because {why}");
        if lacks_privileges() {
            note = format!("{note}; type: {}", seen.as_root);
        }
        seen.notes.push(note);
    }
    Ok(())
}

fn held(socket: &Listed, netns: u32) -> Held {
    let minisocket = match (socket.minisocket_expires_in_ms, socket.state) {
        (None, _) => None,
        (Some(_), TcpState::FinWait2) => Some(Phase::FinWait2),
        (Some(_), _) => Some(Phase::TimeWait),
    };
    let expires_ns = (socket.minisocket_expires_in_ms)
        .map(|ms| socket.ts_ns.saturating_add(u64::from(ms) * 1_000_000));
    Held {
        listed: ListedHolder {
            ts_ns: socket.ts_ns,
            asker: ASKER,
            holder: Holder {
                sk: 0,
                cookie: socket.cookie,
                state: socket.state,
                minisocket,
                local: socket.local,
                remote: socket.remote,
                reuseaddr: None,
                reuseport: None,
                force_reuse: false,
                v6only: None,
                uid: socket.uid,
                device: socket.device,
                port_bound: None,
                timestamps: None,
            },
            netns: Some(netns),
            expires_ns,
        },
        inode: socket.inode.map(Into::into),
    }
}
