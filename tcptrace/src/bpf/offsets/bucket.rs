//! Owns the offsets of the kernel's table of local ports (`inet_hashinfo.bhash`), by which the programs
//! list the sockets that hold a port. A kernel whose table is another one is traced without.

use anyhow::{Context, Result, bail};
use btf_rs::Type;
use tcptrace_common::{BucketOffsets, CommonWindow, Offsets};

use super::KernelTypes;

impl KernelTypes {
    /// Where the fields of the table of local ports lie.
    ///
    /// # Errors
    /// Names what this kernel does not have, or has where the programs cannot reach it.
    pub fn bucket_offsets(&self) -> Result<BucketOffsets> {
        // What these point at is found with them.
        self.field("inet_connection_sock", "icsk_bind_hash")?;
        self.field("socket_alloc", "vfs_inode")?;
        for (structure, field) in [("hlist_head", "first"), ("hlist_node", "next")] {
            if self.byte(structure, field)? != 0 {
                bail!("struct {structure} no longer begins with {field}");
            }
        }
        let bucket = |path: &str| self.byte("inet_bind_bucket", path);
        let (skc_ipv6only, skc_ipv6only_mask) = self.bits("sock", "__sk_common.skc_ipv6only")?;
        let (sk_userlocks, sk_userlocks_mask) = self.bits("sock", "sk_userlocks")?;
        let parts = self.parts_of_buckets()?;
        let mut offsets = BucketOffsets {
            known: 1,
            net_hash_mix: self.byte("net", "hash_mix")?,
            net_death_row: self.byte("net", "ipv4.tcp_death_row")?,
            death_row_is_pointer: u32::from(self.is_pointer("net", "ipv4.tcp_death_row")?),
            death_row_hashinfo: self.byte("inet_timewait_death_row", "hashinfo")?,
            hashinfo_bhash: self.byte("inet_hashinfo", "bhash")?,
            hashinfo_bhash_size: self.byte("inet_hashinfo", "bhash_size")?,
            hash_bucket_size: self.size("inet_bind_hashbucket")?,
            hash_bucket_chain: self.byte("inet_bind_hashbucket", "chain")?,
            bucket_net: bucket("ib_net.net")?,
            bucket_l3mdev: bucket("l3mdev")?,
            bucket_port: bucket("port")?,
            bucket_node: bucket("node")?,
            bucket_owners: Offsets::ABSENT,
            bucket_bhash2: Offsets::ABSENT,
            bucket2_node: Offsets::ABSENT,
            bucket2_owners: Offsets::ABSENT,
            skc_bind_node: self.byte("sock", "__sk_common.skc_bind_node")?,
            skc_bound_dev_if: self.byte("sock", "__sk_common.skc_bound_dev_if")?,
            skc_ipv6only,
            skc_ipv6only_mask,
            sk_userlocks,
            sk_userlocks_shift: sk_userlocks_mask.trailing_zeros(),
            sk_reuseport_cb: self.byte("sock", "sk_reuseport_cb")?,
            // net/ipv4/inet_connection_sock.c `inet_bind_conflict` asks for it up to 6.16, and for sk_uid
            // since it is gone.
            uid_of_inode: u32::from(self.arguments("sock_i_uid").is_some()),
            socket_to_inode: self
                .byte("socket_alloc", "vfs_inode")?
                .checked_sub(self.byte("socket_alloc", "socket")?)
                .context("struct socket_alloc begins with the inode")?,
            inode_number: self.byte("inode", "i_ino")?,
            inode_uid: self.byte("inode", "i_uid")?,
            task_nsproxy: self.byte("task_struct", "nsproxy")?,
            nsproxy_net: self.byte("nsproxy", "net_ns")?,
        };
        if let Some((bhash2, node, owners)) = parts {
            offsets.bucket_bhash2 = bhash2;
            offsets.bucket2_node = node;
            offsets.bucket2_owners = owners;
        } else {
            offsets.bucket_owners = bucket("owners")?;
        }
        check_window(&offsets)?;
        Ok(offsets)
    }

    /// From 6.8 on the owners hang on the parts of a bucket, one for each local address. The kernels from
    /// 6.0 to 6.7 have such parts too, but no list of them in the bucket, which has all owners itself.
    fn parts_of_buckets(&self) -> Result<Option<(u32, u32, u32)>> {
        let parts = (
            self.optional("inet_bind_bucket", "bhash2")?,
            self.optional("inet_bind2_bucket", "bhash_node")?,
            self.optional("inet_bind2_bucket", "owners")?,
        );
        Ok(match parts {
            (Some(bhash2), Some(node), Some(owners)) => Some((bhash2, node, owners)),
            _ => None,
        })
    }

    fn is_pointer(&self, structure: &str, path: &str) -> Result<bool> {
        let field = self.field(structure, path)?;
        Ok(matches!(self.resolve(field.type_id), Some(Type::Ptr(_))))
    }

    /// Size of a structure in bytes.
    fn size(&self, structure: &str) -> Result<u32> {
        match self.resolve(self.structure(structure)?) {
            Some(Type::Struct(found)) => Ok(u32::try_from(found.size())?),
            _ => bail!("this kernel's BTF has no struct {structure}"),
        }
    }
}

/// What is read with the beginning of the socket must lie within.
fn check_window(offsets: &BucketOffsets) -> Result<()> {
    let window = u32::try_from(CommonWindow::BYTES)?;
    for (name, end) in [
        ("skc_bound_dev_if", offsets.skc_bound_dev_if + 4),
        ("skc_ipv6only", offsets.skc_ipv6only + 1),
    ] {
        if end > window {
            bail!(
                "this kernel's {name} ends at byte {end} of struct sock, beyond the {window} that are read"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_the_owners_of_a_port_in_one_place() {
        // Without BTF there is nothing to look at.
        let Ok(types) = KernelTypes::running() else {
            return;
        };
        let offsets = types.bucket_offsets().unwrap();
        assert_eq!(offsets.known, 1);
        assert_ne!(
            offsets.bucket_owners == Offsets::ABSENT,
            offsets.bucket_bhash2 == Offsets::ABSENT
        );
        assert!(offsets.sk_userlocks_shift <= 4);
    }

    #[test]
    fn fields_out_of_reach_are_refused() {
        let mut offsets = BucketOffsets::UNKNOWN;
        assert!(check_window(&offsets).is_ok());
        offsets.skc_bound_dev_if = 101;
        let error = check_window(&offsets).unwrap_err().to_string();
        assert!(error.contains("skc_bound_dev_if"), "{error}");
    }
}
