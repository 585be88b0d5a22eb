//! Owns the offsets of kernel fields: read from the running kernel's BTF, checked, never assumed.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    os::fd::{AsRawFd, FromRawFd},
    path::Path,
};

use anyhow::{Context, Result, anyhow, bail};
use btf_rs::{Backend, Btf, Type};
use tcptrace_common::{CommonWindow, LocalWindow, Offsets, OwnerWindow};

/// Where the kernel shows its own BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Type names for modifiers and typedefs are followed at most so often.
const MAX_CHAIN: usize = 16;

/// A field: where it is and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bit: u32,
    /// Size in bits, for bit fields only.
    bits: Option<u32>,
    type_id: u32,
}

/// The BTF of a kernel.
pub struct KernelTypes(Btf);

impl KernelTypes {
    /// That of the running kernel.
    ///
    /// # Errors
    /// When the kernel has none, or it cannot be parsed.
    pub fn running() -> Result<Self> {
        Self::open(Path::new(VMLINUX))
    }

    /// That in a file of raw BTF.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be parsed.
    pub fn open(path: &Path) -> Result<Self> {
        let parsed = Btf::from_file_with_backend(path, Backend::Mmap)
            // Before 6.16 the file in /sys cannot be mapped: a copy in memory can.
            .or_else(|_| copy_in_memory(path).map(|(btf, _)| btf));
        parsed
            .map(Self)
            .map_err(|error| anyhow!("cannot read BTF from {}: {error}", path.display()))
    }

    /// The offsets of every field that the programs read.
    ///
    /// # Errors
    /// Names the field that this kernel does not have, or has where the programs cannot reach it.
    pub fn offsets(&self) -> Result<Offsets> {
        let sock = |path: &str| self.byte("sock", &format!("__sk_common.{path}"));
        let (skc_reuse, skc_reuse_mask) = self.bits("sock", "__sk_common.skc_reuse")?;
        let (skc_reuseport, skc_reuseport_mask) = self.bits("sock", "__sk_common.skc_reuseport")?;
        let sk_uid = self.byte("sock", "sk_uid")?;
        let sk_cgrp_data = self.byte("sock", "sk_cgrp_data")?;
        let offsets = Offsets {
            skc_family: sock("skc_family")?,
            skc_dport: sock("skc_dport")?,
            skc_daddr: sock("skc_daddr")?,
            skc_rcv_saddr: sock("skc_rcv_saddr")?,
            skc_num: sock("skc_num")?,
            skc_prot: sock("skc_prot")?,
            skc_net: sock("skc_net.net")?,
            // A kernel without IPv6 has no such fields and no such sockets.
            skc_v6_daddr: sock("skc_v6_daddr").unwrap_or(0),
            skc_v6_rcv_saddr: sock("skc_v6_rcv_saddr").unwrap_or(0),
            skc_cookie: sock("skc_cookie")?,
            skc_reuse,
            skc_reuse_mask,
            skc_reuseport,
            skc_reuseport_mask,
            sk_protocol: self.byte("sock", "sk_protocol")?,
            sk_uid,
            sk_cgrp_data,
            owner: owner_window(sk_uid, sk_cgrp_data),
            inet_saddr: self.byte("inet_sock", "inet_saddr")?,
            inet_sport: self.byte("inet_sock", "inet_sport")?,
            net_inum: self.byte("net", "ns.inum")?,
            cgroup_kn: self.byte("cgroup", "kn")?,
            kn_id: self.byte("kernfs_node", "id")?,
            // Renamed in 6.15.
            kn_parent: self
                .byte("kernfs_node", "__parent")
                .or_else(|_| self.byte("kernfs_node", "parent"))?,
        };
        check_windows(&offsets)?;
        Ok(offsets)
    }

    /// Whether the kernel has the tracepoint `name`: BTF has a typedef for each.
    #[must_use]
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.0
            .resolve_ids_by_name(&format!("btf_trace_{name}"))
            .is_ok_and(|ids| !ids.is_empty())
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
        let field = self.field(structure, path)?;
        if !field.bit.is_multiple_of(8) || field.bits.is_some() {
            bail!("struct {structure}: {path} has become a bit field");
        }
        Ok(field.bit / 8)
    }

    /// Byte offset and mask of a bit field that lies within one byte.
    fn bits(&self, structure: &str, path: &str) -> Result<(u32, u32)> {
        let field = self.field(structure, path)?;
        let size = field.bits.unwrap_or(8);
        if field.bit % 8 + size > 8 {
            bail!("struct {structure}: {path} no longer lies within one byte");
        }
        Ok((field.bit / 8, ((1 << size) - 1) << (field.bit % 8)))
    }

    /// Follows `path`, names separated by dots, from `structure`.
    fn field(&self, structure: &str, path: &str) -> Result<Field> {
        let mut type_id = self.structure(structure)?;
        let mut bit = 0;
        let mut bits = None;
        for name in path.split('.') {
            let member = self
                .member(type_id, name)
                .with_context(|| format!("this kernel's struct {structure} has no {path}"))?;
            bit += member.bit;
            bits = member.bits;
            type_id = member.type_id;
        }
        Ok(Field { bit, bits, type_id })
    }

    fn structure(&self, name: &str) -> Result<u32> {
        let ids = self
            .0
            .resolve_ids_by_name(name)
            .map_err(|error| anyhow!("this kernel's BTF has no struct {name}: {error}"))?;
        for id in ids {
            if matches!(self.0.resolve_type_by_id(id), Ok(Type::Struct(_))) {
                return Ok(id);
            }
        }
        bail!("this kernel's BTF has no struct {name}")
    }

    /// The member `name`, within anonymous structs and unions too.
    fn member(&self, type_id: u32, name: &str) -> Option<Field> {
        let (Type::Struct(aggregate) | Type::Union(aggregate)) = self.resolve(type_id)? else {
            return None;
        };
        for member in &aggregate.members {
            let here = Field {
                bit: member.bit_offset(),
                bits: member.bitfield_size().filter(|bits| *bits != 0),
                type_id: btf_rs::BtfType::get_type_id(member)?,
            };
            let member_name = self.0.resolve_name(member).unwrap_or_default();
            if member_name == name {
                return Some(here);
            }
            if member_name.is_empty()
                && let Some(inner) = self.member(here.type_id, name)
            {
                return Some(Field {
                    bit: here.bit + inner.bit,
                    ..inner
                });
            }
        }
        None
    }

    /// The type behind typedefs and modifiers.
    fn resolve(&self, mut type_id: u32) -> Option<Type> {
        for _ in 0..MAX_CHAIN {
            type_id = match self.0.resolve_type_by_id(type_id).ok()? {
                Type::Typedef(inner) => btf_rs::BtfType::get_type_id(&inner)?,
                Type::Volatile(inner) | Type::Const(inner) => btf_rs::BtfType::get_type_id(&inner)?,
                other => return Some(other),
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

/// Where to read the user and the cgroup of a socket from in one go, if they lie near enough.
fn owner_window(sk_uid: u32, sk_cgrp_data: u32) -> u32 {
    let start = sk_uid.min(sk_cgrp_data) & !7;
    let end = (sk_uid + 4).max(sk_cgrp_data + 8);
    if (end - start) as usize <= OwnerWindow::BYTES {
        start
    } else {
        OwnerWindow::NONE
    }
}

/// Copies the file to anonymous memory and maps that.
fn copy_in_memory(path: &Path) -> Result<(Btf, File)> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .context("cannot read it")?;
    // SAFETY: memfd_create(2) takes a NUL-terminated name and returns a new descriptor or -1.
    let fd = unsafe { libc::memfd_create(c"tcptrace-btf".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("cannot make a memory file");
    }
    // SAFETY: the descriptor is new and nobody else's.
    let mut copy = unsafe { File::from_raw_fd(fd) };
    copy.write_all(&bytes)?;
    copy.seek(SeekFrom::Start(0))?;
    let name = format!("/proc/self/fd/{}", copy.as_raw_fd());
    let btf =
        Btf::from_file_with_backend(&name, Backend::Mmap).map_err(|error| anyhow!("{error}"))?;
    Ok((btf, copy))
}

#[cfg(test)]
mod tests {
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
    fn a_copy_in_memory_gives_the_same_offsets() {
        let Some(types) = running() else { return };
        let (copied, _file) = copy_in_memory(Path::new(VMLINUX)).unwrap();
        assert_eq!(
            types.offsets().unwrap(),
            KernelTypes(copied).offsets().unwrap()
        );
    }

    #[test]
    fn no_btf_is_an_error_that_names_the_file() {
        let error = KernelTypes::open(Path::new("/no/such/btf")).err().unwrap();
        assert!(error.to_string().contains("/no/such/btf"));
    }

    #[test]
    fn user_and_cgroup_are_read_at_once_where_they_lie_together() {
        assert_eq!(owner_window(528, 672), 528);
        assert_eq!(owner_window(676, 532), 528);
        assert_eq!(owner_window(100, 300), OwnerWindow::NONE);
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
        offsets.skc_cookie = 92;
        let error = check_windows(&offsets).unwrap_err().to_string();
        assert!(error.contains("skc_cookie"), "{error}");
    }
}
