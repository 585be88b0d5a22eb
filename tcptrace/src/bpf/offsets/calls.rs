//! Owns the offsets that only the programs on bind(), listen() and connect() need.

use anyhow::{Result, bail};
use tcptrace_common::{Bits, CallOffsets, Offsets};

use super::KernelTypes;

/// CAP_NET_BIND_SERVICE of include/uapi/linux/capability.h (v6.18).
const CAP_NET_BIND_SERVICE: u32 = 10;

/// What tells whether a task may bind to privileged ports.
const RIGHTS: [(&str, &str); 8] = [
    ("cred", "cap_effective"),
    ("cred", "euid"),
    ("cred", "user_ns"),
    ("net", "user_ns"),
    ("user_namespace", "parent"),
    ("user_namespace", "level"),
    ("user_namespace", "owner"),
    ("task_struct", "cred"),
];

impl KernelTypes {
    /// Their offsets.
    ///
    /// # Errors
    /// Names a field without which calls cannot be watched, that this kernel does not have.
    pub fn call_offsets(&self) -> Result<CallOffsets> {
        let options = self.inet_options();
        let (byte, mask) = self.bits("sock", "sk_userlocks")?;
        if mask.count_ones() < 4 {
            bail!("struct sock: sk_userlocks no longer has 4 bits");
        }
        Ok(CallOffsets {
            skc_bound_dev_if: self.byte("sock", "__sk_common.skc_bound_dev_if")?,
            skc_ipv6only: self.some_bits("sock", "__sk_common.skc_ipv6only")?,
            sk_userlocks: Bits { byte, mask },
            sk_reuseport_cb: self.byte("sock", "sk_reuseport_cb")?,
            freebind: self.inet_option(&options, "freebind")?,
            transparent: self.inet_option(&options, "transparent")?,
            bind_address_no_port: self.inet_option(&options, "bind_address_no_port")?,
            // Since 6.3.
            local_port_range: self
                .optional("inet_sock", "local_port_range")?
                .unwrap_or(Offsets::ABSENT),
            socket_sk: self.byte("socket", "sk")?,
            file_private_data: self.byte("file", "private_data")?,
            file_flags: self.byte("file", "f_flags")?,
            task_files: self.byte("task_struct", "files")?,
            files_fdt: self.byte("files_struct", "fdt")?,
            fdt_max_fds: self.byte("fdtable", "max_fds")?,
            fdt_fd: self.byte("fdtable", "fd")?,
            ..self.rights()?
        })
    }

    /// What tells whether a task may bind to privileged ports, where this kernel has all of it.
    fn rights(&self) -> Result<CallOffsets> {
        for (structure, field) in RIGHTS {
            if self.optional(structure, field)?.is_none() {
                return Ok(CallOffsets::UNSET);
            }
        }
        // Two words of 32 bits, the lower ones first, before 6.3; then one of 64 bits.
        let two_words = self.optional("cred", "cap_effective.cap")?.is_some();
        let word: u32 = if two_words { 4 } else { 8 };
        let byte = CAP_NET_BIND_SERVICE / 8;
        let byte = if cfg!(target_endian = "big") {
            word - 1 - byte
        } else {
            byte
        };
        Ok(CallOffsets {
            cred_net_bind: Bits {
                byte: self.byte("cred", "cap_effective")? + byte,
                mask: 1 << (CAP_NET_BIND_SERVICE % 8),
            },
            cred_euid: self.byte("cred", "euid")?,
            cred_user_ns: self.byte("cred", "user_ns")?,
            net_user_ns: self.byte("net", "user_ns")?,
            user_ns_parent: self.byte("user_namespace", "parent")?,
            user_ns_level: self.byte("user_namespace", "level")?,
            user_ns_owner: self.byte("user_namespace", "owner")?,
            task_cred: self.byte("task_struct", "cred")?,
            ..CallOffsets::UNSET
        })
    }

    /// A bit field that may be missing.
    fn some_bits(&self, structure: &str, path: &str) -> Result<Bits> {
        let Some(field) = self.find(structure, path)? else {
            return Ok(Bits::NONE);
        };
        let (byte, mask) = field.byte_and_mask(structure, path)?;
        Ok(Bits { byte, mask })
    }

    /// The numbers of the bits of `inet_sock.inet_flags`, which an enum without a name has since 6.6.
    fn inet_options(&self) -> Vec<(String, u32)> {
        const FIRST: &str = "INET_FLAGS_PKTINFO";
        match self.optional("inet_sock", "inet_flags") {
            Ok(Some(_)) => self.nameless_enum(FIRST),
            Ok(None) | Err(_) => Vec::new(),
        }
    }

    /// An option of `struct inet_sock`: a bit of `inet_flags` since 6.6, a bit field of its own before.
    fn inet_option(&self, options: &[(String, u32)], field: &str) -> Result<Bits> {
        let Some(flags) = self.optional("inet_sock", "inet_flags")? else {
            return self.some_bits("inet_sock", field);
        };
        let enumerator = format!("INET_FLAGS_{}", field.to_uppercase());
        let Some((_, number)) = options.iter().find(|(name, _)| *name == enumerator) else {
            return Ok(Bits::NONE);
        };
        // `inet_flags` is an unsigned long.
        let byte = if cfg!(target_endian = "big") {
            7 - number / 8
        } else {
            number / 8
        };
        Ok(Bits {
            byte: flags + byte,
            mask: 1 << (number % 8),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_of_a_socket_is_a_bit_of_its_own() {
        let Ok(types) = KernelTypes::running() else {
            return;
        };
        let offsets = types.call_offsets().unwrap();
        let bits = [
            offsets.skc_ipv6only,
            offsets.freebind,
            offsets.transparent,
            offsets.bind_address_no_port,
        ];
        for (index, bit) in bits.iter().enumerate() {
            assert_eq!(bit.mask.count_ones(), 1, "{index}");
            assert!(!bits[..index].contains(bit), "{index}");
        }
        assert!(offsets.sk_userlocks.mask.count_ones() >= 4);
        assert_ne!(offsets.task_cred, Offsets::ABSENT);
    }
}
