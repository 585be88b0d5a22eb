//! Owns the check that a structure can be what BTF says it is: no two of its fields overlap, each lies
//! within, and each is as large as what the programs read of it.
//!
//! This is what finds a wrong offset of a field for which no value can be provoked at the start of a trace:
//! `icsk_user_timeout` (a connection would have to time out), `task_struct.exit_code` (a task would have to
//! end), `kernfs_node.parent` (only the filter on cgroups follows it), and what tells whether a task may
//! bind to privileged ports. The others are found by their values, too ([`crate::bpf::self_check`]).

use std::mem::size_of;

use anyhow::{Result, bail};
use btf_rs::{BtfType as _, Member, Struct, Type};

use super::KernelTypes;

impl KernelTypes {
    /// Whether the member with this index can lie where it does in `structure`, beside the others.
    ///
    /// # Errors
    /// Names the two that overlap, or the one that lies outside.
    pub(super) fn check_member(&self, structure: &Struct, index: usize) -> Result<()> {
        let member = &structure.members[index];
        let Some(own) = self.extent(member) else {
            return Ok(());
        };
        let name = |member: &Member| self.btf.resolve_name(member).unwrap_or_default();
        let of = || match self.btf.resolve_name(structure) {
            Ok(name) if !name.is_empty() => format!("struct {name}"),
            _ => "an unnamed structure".to_owned(),
        };
        if own.1 > bits(structure.size()) {
            bail!(
                "BTF has {} of {} where that has ended already",
                name(member),
                of()
            );
        }
        for (_, other) in (structure.members.iter().enumerate()).filter(|(at, _)| *at != index) {
            if let Some(beside) = self.extent(other)
                && own.0 < beside.1
                && beside.0 < own.1
            {
                bail!(
                    "BTF has {} of {} where {} is, too",
                    name(member),
                    of(),
                    match name(other) {
                        empty if empty.is_empty() => "another field".to_owned(),
                        name => name,
                    }
                );
            }
        }
        Ok(())
    }

    /// From which bit to before which a member reaches; `None` where its size is not known.
    fn extent(&self, member: &Member) -> Option<(u64, u64)> {
        let start = u64::from(member.bit_offset());
        let size = match member.bitfield_size() {
            Some(size) if size != 0 => u64::from(size),
            _ => bits(self.bytes_of(member.get_type_id()?)?),
        };
        Some((start, start + size))
    }

    /// Size of a type in bytes.
    pub(super) fn bytes_of(&self, type_id: u32) -> Option<usize> {
        Some(match self.resolve(type_id)? {
            Type::Int(int) => int.size(),
            Type::Float(float) => float.size(),
            Type::Enum(found) => found.size(),
            Type::Enum64(found) => found.size(),
            Type::Struct(found) | Type::Union(found) => found.size(),
            Type::Ptr(_) => size_of::<u64>(),
            Type::Array(array) => array.len() * self.bytes_of(array.get_type_id()?)?,
            _ => return None,
        })
    }
}

fn bits(bytes: usize) -> u64 {
    bytes as u64 * 8
}
