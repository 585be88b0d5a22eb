//! Owns the offsets of kernel fields: read from the running kernel's BTF, checked, never assumed.

mod bucket;
mod calls;
mod field;
mod file;
mod layout;
mod names;
mod open;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};
use btf_rs::{Btf, Enum, Type};
use tcptrace_common::{CommonWindow, LocalWindow, Offsets, OwnerWindow, TASK_COMM_LEN};

use self::{field::Field, names::Names};

/// Where the kernel shows its own BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Type names for modifiers and typedefs are followed at most so often.
const MAX_CHAIN: usize = 16;

/// The BTF of a kernel.
pub struct KernelTypes {
    btf: Btf,
    names: Names,
    /// The ids of structures that were looked up, by name.
    structures: Mutex<HashMap<String, u32>>,
    /// The user's file that they come from; `None` for the kernel's own.
    file: Option<PathBuf>,
}

impl KernelTypes {
    /// What to do where these types turn out not to be those of the running kernel.
    #[must_use]
    pub fn remedy(&self) -> String {
        match &self.file {
            None => "please report it with the output of: uname -r".to_owned(),
            Some(file) => format!(
                "is {} the BTF of the kernel that runs (see: uname -r)?",
                file.display()
            ),
        }
    }

    /// The offsets of every field that the programs read.
    ///
    /// # Errors
    /// Names the field that this kernel does not have, or has where the programs cannot reach it.
    pub fn offsets(&self) -> Result<Offsets> {
        // With the outermost structures those within are found, too.
        self.field("tcp_sock", "inet_conn.icsk_inet.sk")?;
        self.field("tcp_timewait_sock", "tw_sk")?;
        let sock = |path: &str| self.byte("sock", &format!("__sk_common.{path}"));
        let ipv6 = |path: &str| self.optional("sock", &format!("__sk_common.{path}"));
        let (skc_reuse, skc_reuse_mask) = self.bits("sock", "__sk_common.skc_reuse")?;
        let (skc_reuseport, skc_reuseport_mask) = self.bits("sock", "__sk_common.skc_reuseport")?;
        let sk_uid = self.sized("sock", "sk_uid", 4)?;
        let sk_cgrp_data = self.byte("sock", "sk_cgrp_data")?;
        let sk_err = self.sized("sock", "sk_err", 4)?;
        let sk_shutdown = self.byte_or_bits("sock", "sk_shutdown")?;
        let sk_socket = self.byte("sock", "sk_socket")?;
        let sk_lingertime = self.sized("sock", "sk_lingertime", 8)?;
        // Took the place of f_count in 6.13.
        let file_ref = self.optional("file", "f_ref")?;
        let offsets = Offsets {
            skc_family: sock("skc_family")?,
            skc_dport: sock("skc_dport")?,
            skc_daddr: sock("skc_daddr")?,
            skc_rcv_saddr: sock("skc_rcv_saddr")?,
            skc_num: sock("skc_num")?,
            skc_prot: sock("skc_prot")?,
            skc_net: sock("skc_net.net")?,
            // A kernel without IPv6 has no such fields and no such sockets.
            skc_v6_daddr: ipv6("skc_v6_daddr")?.unwrap_or(0),
            skc_v6_rcv_saddr: ipv6("skc_v6_rcv_saddr")?.unwrap_or(0),
            skc_cookie: sock("skc_cookie")?,
            skc_reuse,
            skc_reuse_mask,
            skc_reuseport,
            skc_reuseport_mask,
            sk_protocol: self.byte("sock", "sk_protocol")?,
            sk_uid,
            sk_cgrp_data,
            sk_err,
            sk_shutdown,
            sk_socket,
            sk_lingertime,
            owner: owner_window(&[
                (sk_uid, 4),
                (sk_cgrp_data, 8),
                (sk_err, 4),
                (sk_shutdown, 1),
                (sk_socket, 8),
                (sk_lingertime, 8),
            ]),
            skc_flags: sock("skc_flags")?,
            skc_state: sock("skc_state")?,
            sock_dead_mask: self.flag("sock_flags", "SOCK_DEAD")?,
            sock_linger_mask: self.flag("sock_flags", "SOCK_LINGER")?,
            socket_file: self.byte("socket", "file")?,
            file_count: file_ref.map_or_else(|| self.byte("file", "f_count"), Ok)?,
            file_dead_is_negative: u32::from(file_ref.is_some()),
            icsk_user_timeout: self.sized("inet_connection_sock", "icsk_user_timeout", 4)?,
            linger2: self.sized("tcp_sock", "linger2", 4)?,
            task_flags: self.sized("task_struct", "flags", 4)?,
            task_exit_code: self.sized("task_struct", "exit_code", 4)?,
            task_pid: self.sized("task_struct", "pid", 4)?,
            task_tgid: self.sized("task_struct", "tgid", 4)?,
            task_comm: self.sized("task_struct", "comm", TASK_COMM_LEN)?,
            tw_substate: self.sized("inet_timewait_sock", "tw_substate", 1)?,
            tw_timer: self.byte("inet_timewait_sock", "tw_timer")?,
            // Since 6.14.
            tw_entry_stamp: self
                .optional("inet_timewait_sock", "tw_entry_stamp")?
                .unwrap_or(Offsets::ABSENT),
            tw_ts_recent_stamp: self.sized("tcp_timewait_sock", "tw_ts_recent_stamp", 4)?,
            timer_expires: self.sized("timer_list", "expires", 8)?,
            timer_function: self.sized("timer_list", "function", 8)?,
            inet_saddr: self.byte("inet_sock", "inet_saddr")?,
            inet_sport: self.byte("inet_sock", "inet_sport")?,
            net_inum: self.sized("net", "ns.inum", 4)?,
            cgroup_kn: self.byte("cgroup", "kn")?,
            kn_id: self.sized("kernfs_node", "id", 8)?,
            // Renamed in 6.15.
            kn_parent: match self.optional("kernfs_node", "__parent")? {
                Some(offset) => offset,
                None => self.byte("kernfs_node", "parent")?,
            },
        };
        check_windows(&offsets)?;
        Ok(offsets)
    }

    /// Whether the kernel has the tracepoint `name`: BTF has a typedef for each.
    #[must_use]
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.named(&format!("btf_trace_{name}")).next().is_some()
    }

    /// What this kernel keeps from eBPF programs by design, in one sentence; `None` for nothing.
    ///
    /// Some kernels are built so that no program runs while process 1 is on the CPU, and do not count
    /// the runs that they skip: `struct bpf_prog_aux` has a field `init_owned` there, which
    /// kernel/trace/bpf_trace.c `bpf_trace_run3` looks at.
    #[must_use]
    pub fn keeps_back(&self) -> Option<&'static str> {
        self.field("bpf_prog_aux", "init_owned").ok().map(|_| {
            "this kernel runs no eBPF program while process 1 is on the CPU: what happens in interrupts then is missed, and not counted as lost"
        })
    }

    /// Byte offset of an ordinary field.
    fn byte(&self, structure: &str, path: &str) -> Result<u32> {
        self.field(structure, path)?.byte(structure, path)
    }

    /// The same, of a field of which the programs read so many bytes.
    fn sized(&self, structure: &str, path: &str, bytes: usize) -> Result<u32> {
        let field = self.field(structure, path)?;
        let offset = field.byte(structure, path)?;
        match self.bytes_of(field.type_id) {
            Some(size) if size < bytes => {
                bail!("struct {structure}: {path} has {size} bytes, where {bytes} are read")
            }
            _ => Ok(offset),
        }
    }

    /// Byte offset of a field that not every kernel has; `None` where there is none.
    fn optional(&self, structure: &str, path: &str) -> Result<Option<u32>> {
        if self.structure(structure).is_err() {
            return Ok(None);
        }
        let found = self.find(structure, path)?;
        found.map(|field| field.byte(structure, path)).transpose()
    }

    /// Byte offset of a field that fills one byte, whether declared as a bit field of 8 bits or not.
    fn byte_or_bits(&self, structure: &str, path: &str) -> Result<u32> {
        let (byte, mask) = self.bits(structure, path)?;
        if mask != 0xff {
            bail!("struct {structure}: {path} no longer fills a byte");
        }
        Ok(byte)
    }

    /// The bit that the enumerator `name` of `enum structure` numbers.
    fn flag(&self, structure: &str, name: &str) -> Result<u32> {
        let number = self
            .enumerators(structure)?
            .into_iter()
            .find_map(|(of, number)| (of == name).then_some(number))
            .with_context(|| format!("this kernel's enum {structure} has no {name}"))?;
        1u32.checked_shl(number)
            .with_context(|| format!("enum {structure}: {name} is {number}, beyond 32 bits"))
    }

    /// The names and numbers of `enum name`.
    ///
    /// # Errors
    /// When this kernel has no such enum.
    pub fn enumerators(&self, name: &str) -> Result<Vec<(String, u32)>> {
        self.named(name)
            .find_map(|(_, found)| match found {
                Type::Enum(found) => Some(self.members(&found)),
                _ => None,
            })
            .with_context(|| format!("this kernel's BTF has no enum {name}"))
    }

    /// The names and numbers of the enum without a name whose first enumerator is `first`; none when there
    /// is no such enum.
    fn nameless_enum(&self, first: &str) -> Vec<(String, u32)> {
        self.named("")
            .find_map(|(_, found)| match found {
                Type::Enum(found)
                    if (found.members.first())
                        .and_then(|member| self.btf.resolve_name(member).ok())
                        .is_some_and(|name| name == first) =>
                {
                    Some(self.members(&found))
                }
                _ => None,
            })
            .unwrap_or_default()
    }

    fn members(&self, of: &Enum) -> Vec<(String, u32)> {
        of.members
            .iter()
            .filter_map(|member| Some((self.btf.resolve_name(member).ok()?, member.val())))
            .collect()
    }

    /// How many arguments the kernel function `name` has; `None` when there is no such function.
    #[must_use]
    pub fn arguments(&self, name: &str) -> Option<usize> {
        self.named(name).find_map(|(_, found)| match found {
            Type::Func(function) => self.parameters(btf_rs::BtfType::get_type_id(&function)?),
            _ => None,
        })
    }

    /// The id of the kernel function `name` in the running kernel's own BTF; `None` when there is no such
    /// function, or these are the types of a user's file.
    #[must_use]
    pub fn own_function(&self, name: &str) -> Option<u32> {
        if self.file.is_some() {
            return None;
        }
        self.named(name)
            .find_map(|(id, found)| matches!(found, Type::Func(_)).then_some(id))
    }

    /// How many arguments the tracepoint `name` hands over; `None` when there is no such tracepoint.
    #[must_use]
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        let typedef = format!("btf_trace_{name}");
        let (id, _) = self.named(&typedef).next()?;
        let Type::Ptr(pointer) = self.resolve(id)? else {
            return None;
        };
        // The first parameter is the tracepoint's own data.
        self.parameters(btf_rs::BtfType::get_type_id(&pointer)?)?
            .checked_sub(1)
    }

    fn parameters(&self, prototype: u32) -> Option<usize> {
        match self.btf.resolve_type_by_id(prototype).ok()? {
            Type::FuncProto(prototype) => Some(prototype.parameters.len()),
            _ => None,
        }
    }

    /// Byte offset and mask of a bit field that lies within one byte.
    fn bits(&self, structure: &str, path: &str) -> Result<(u32, u32)> {
        self.field(structure, path)?.byte_and_mask(structure, path)
    }

    /// Follows `path`, names separated by dots, from `structure`.
    fn field(&self, structure: &str, path: &str) -> Result<Field> {
        self.find(structure, path)?
            .with_context(|| format!("this kernel's struct {structure} has no {path}"))
    }

    /// The same; `None` when there is no such field.
    fn find(&self, structure: &str, path: &str) -> Result<Option<Field>> {
        let mut type_id = self.structure(structure)?;
        let mut bit = 0;
        let mut bits = None;
        for name in path.split('.') {
            let found = self.member(type_id, name).with_context(|| {
                format!("this kernel's {path} of struct {structure} cannot lie where it should")
            })?;
            let Some(member) = found else {
                return Ok(None);
            };
            bit += member.bit;
            bits = member.bits;
            type_id = member.type_id;
            self.learn(type_id);
        }
        Ok(Some(Field { bit, bits, type_id }))
    }

    /// The structures, enums, functions and typedefs of this name, with their ids, lowest first.
    fn named(&self, name: &str) -> impl Iterator<Item = (u32, Type)> {
        self.names.candidates(name).filter_map(move |id| {
            let found = self.btf.resolve_type_by_id(id).ok()?;
            let its_name = self.btf.resolve_name(found.as_btf_type()?).ok()?;
            (its_name == name).then_some((id, found))
        })
    }

    fn structure(&self, name: &str) -> Result<u32> {
        // Nothing is left half done where a thread could have panicked.
        let mut known = (self.structures.lock()).unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = known.get(name) {
            return Ok(*id);
        }
        let id = self.find_structure(name)?;
        known.insert(name.to_owned(), id);
        Ok(id)
    }

    /// Remembers the structure that a field of this type is or points at, so that it need not be searched.
    fn learn(&self, type_id: u32) {
        let pointed_at = match self.resolve(type_id) {
            Some(Type::Ptr(pointer)) => btf_rs::BtfType::get_type_id(&pointer).unwrap_or(type_id),
            Some(_) | None => type_id,
        };
        if let Some((id, Type::Struct(structure))) = self.resolve_with_id(pointed_at)
            && let Ok(name) = self.btf.resolve_name(&structure)
            && !name.is_empty()
        {
            let mut known = (self.structures.lock()).unwrap_or_else(PoisonError::into_inner);
            known.entry(name).or_insert(id);
        }
    }

    fn find_structure(&self, name: &str) -> Result<u32> {
        self.named(name)
            .find_map(|(id, found)| matches!(found, Type::Struct(_)).then_some(id))
            .with_context(|| format!("this kernel's BTF has no struct {name}"))
    }

    /// The member `name`, within anonymous structs and unions too; `None` when there is no such member.
    ///
    /// # Errors
    /// When it cannot lie where BTF says.
    fn member(&self, type_id: u32, name: &str) -> Result<Option<Field>> {
        let (aggregate, is_struct) = match self.resolve(type_id) {
            Some(Type::Struct(aggregate)) => (aggregate, true),
            Some(Type::Union(aggregate)) => (aggregate, false),
            _ => return Ok(None),
        };
        for (index, member) in aggregate.members.iter().enumerate() {
            let Some(member_type) = btf_rs::BtfType::get_type_id(member) else {
                return Ok(None);
            };
            let here = Field {
                bit: member.bit_offset(),
                bits: member.bitfield_size().filter(|bits| *bits != 0),
                type_id: member_type,
            };
            let member_name = self.btf.resolve_name(member).unwrap_or_default();
            let found = if member_name == name {
                Some(here)
            } else if member_name.is_empty() {
                self.member(here.type_id, name)?.map(|inner| Field {
                    bit: here.bit + inner.bit,
                    ..inner
                })
            } else {
                None
            };
            if found.is_some() {
                if is_struct {
                    self.check_member(&aggregate, index)?;
                }
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The type behind typedefs and modifiers.
    fn resolve(&self, type_id: u32) -> Option<Type> {
        self.resolve_with_id(type_id).map(|(_, found)| found)
    }

    /// The same, with its id.
    fn resolve_with_id(&self, mut type_id: u32) -> Option<(u32, Type)> {
        for _ in 0..MAX_CHAIN {
            type_id = match self.btf.resolve_type_by_id(type_id).ok()? {
                Type::Typedef(inner) => btf_rs::BtfType::get_type_id(&inner)?,
                Type::Volatile(inner) | Type::Const(inner) => btf_rs::BtfType::get_type_id(&inner)?,
                other => return Some((type_id, other)),
            };
        }
        None
    }
}

/// The programs copy two windows of the socket; what they use must lie within.
fn check_windows(offsets: &Offsets) -> Result<()> {
    let window = u32::try_from(CommonWindow::BYTES)?;
    for (name, end) in [
        ("skc_family", offsets.skc_family + 2),
        ("skc_dport", offsets.skc_dport + 2),
        ("skc_daddr", offsets.skc_daddr + 4),
        ("skc_rcv_saddr", offsets.skc_rcv_saddr + 4),
        ("skc_num", offsets.skc_num + 2),
        ("skc_prot", offsets.skc_prot + 8),
        ("skc_net", offsets.skc_net + 8),
        ("skc_v6_daddr", offsets.skc_v6_daddr + 16),
        ("skc_v6_rcv_saddr", offsets.skc_v6_rcv_saddr + 16),
        ("skc_cookie", offsets.skc_cookie + 8),
        ("skc_reuse", offsets.skc_reuse + 1),
        ("skc_reuseport", offsets.skc_reuseport + 1),
        ("skc_flags", offsets.skc_flags + 4),
        ("skc_state", offsets.skc_state + 1),
    ] {
        if end > window {
            bail!(
                "this kernel's {name} ends at byte {end} of struct sock, beyond the {window} that are read"
            );
        }
    }
    let start = offsets.inet_saddr & !7;
    let end = start + u32::try_from(LocalWindow::BYTES)?;
    if offsets.inet_sport < start || offsets.inet_sport + 2 > end {
        bail!("this kernel's inet_sport does not lie beside inet_saddr");
    }
    Ok(())
}

/// Where to read the fields (offset and size) of [`OwnerWindow`] from in one go, if they lie near
/// enough.
fn owner_window(fields: &[(u32, u32)]) -> u32 {
    let start = fields.iter().map(|(offset, _)| offset & !7).min();
    let end = fields.iter().map(|(offset, size)| offset + size).max();
    match (start, end) {
        (Some(start), Some(end)) if (end - start) as usize <= OwnerWindow::BYTES => start,
        _ => OwnerWindow::NONE,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The running kernel's types; the test says so when there are none to look at.
    fn running() -> Option<KernelTypes> {
        let types = KernelTypes::running();
        assert!(
            types.is_ok() || !Path::new(VMLINUX).exists(),
            "BTF is there but not readable"
        );
        types.ok()
    }

    #[test]
    fn a_missing_field_is_named() {
        let Some(types) = running() else { return };
        let error = format!(
            "{:#}",
            types.byte("sock", "__sk_common.skc_no_such").unwrap_err()
        );
        assert!(error.contains("skc_no_such"), "{error}");
        let error = format!("{:#}", types.byte("no_such_struct", "x").unwrap_err());
        assert!(error.contains("no_such_struct"), "{error}");
    }

    #[test]
    fn each_name_is_found_where_a_search_of_the_whole_file_finds_it() {
        let Some(types) = running() else { return };
        for name in [
            "sock",
            "tcp_sock",
            "sk_buff",
            "sock_flags",
            "tcp_close",
            "btf_trace_inet_sock_set_state",
            "no_such_name",
        ] {
            let mut everywhere = types.btf.resolve_ids_by_name(name).unwrap();
            everywhere.retain(|id| {
                matches!(
                    types.btf.resolve_type_by_id(*id),
                    Ok(Type::Struct(_) | Type::Enum(_) | Type::Func(_) | Type::Typedef(_))
                )
            });
            let found: Vec<u32> = types.named(name).map(|(id, _)| id).collect();
            assert_eq!(found, everywhere, "{name}");
            assert_eq!(found.is_empty(), name == "no_such_name", "{name}");
        }
    }

    #[test]
    fn fields_are_read_at_once_where_they_lie_together() {
        assert_eq!(owner_window(&[(528, 4), (672, 8)]), 528);
        assert_eq!(owner_window(&[(676, 4), (532, 8), (600, 1)]), 528);
        assert_eq!(owner_window(&[(100, 4), (600, 8)]), OwnerWindow::NONE);
    }

    #[test]
    fn fields_out_of_reach_are_refused() {
        let mut offsets = Offsets {
            inet_saddr: 808,
            inet_sport: 814,
            ..Offsets::UNSET
        };
        assert!(check_windows(&offsets).is_ok());
        offsets.inet_sport = 840;
        assert!(check_windows(&offsets).is_err());
        offsets.inet_sport = 824;
        assert!(check_windows(&offsets).is_ok());
        offsets.skc_cookie = 100;
        let error = check_windows(&offsets).unwrap_err().to_string();
        assert!(error.contains("skc_cookie"), "{error}");
    }
}
