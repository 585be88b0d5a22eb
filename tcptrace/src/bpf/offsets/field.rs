//! Owns `Field`: where a field of a structure lies, and what the programs can make of it.

use anyhow::{Result, bail};

/// A field: where it is and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) bit: u32,
    /// Size in bits, for bit fields only.
    pub(super) bits: Option<u32>,
    pub(super) type_id: u32,
}

impl Field {
    /// Byte offset of an ordinary field; `structure` and `path` name it.
    pub(super) fn byte(self, structure: &str, path: &str) -> Result<u32> {
        if !self.bit.is_multiple_of(8) || self.bits.is_some() {
            bail!("struct {structure}: {path} has become a bit field");
        }
        Ok(self.bit / 8)
    }

    /// Byte offset and mask of a bit field that lies within one byte.
    pub(super) fn byte_and_mask(self, structure: &str, path: &str) -> Result<(u32, u32)> {
        let size = self.bits.unwrap_or(8);
        if self.bit % 8 + size > 8 {
            bail!("struct {structure}: {path} no longer lies within one byte");
        }
        Ok((self.bit / 8, ((1 << size) - 1) << (self.bit % 8)))
    }
}
