//! Owns the index of the names in BTF: btf-rs searches the whole file for each, some 150,000 types.
//!
//! Of each named type that is looked up by name there is one number: a hash of the name, and the type's id.
//! A name is found by looking at all of these numbers, which takes less time than to sort them.

use std::{
    ffi::CStr,
    hash::{BuildHasher as _, Hasher as _},
};

use anyhow::{Context, Result, bail};
use hashbrown::DefaultHashBuilder;

/// Bytes of `struct btf_header` up to `str_len`: include/uapi/linux/btf.h (v6.18).
const HEADER_BYTES: usize = 24;
/// Bytes of `struct btf_type` there.
const TYPE_BYTES: usize = 12;

/// Where the named structures, enums, functions and typedefs of a file of raw BTF are.
#[derive(Debug)]
pub(super) struct Names {
    hasher: DefaultHashBuilder,
    /// The upper half of a name's hash, and a type's id in the lower half.
    entries: Vec<u64>,
}

impl Names {
    /// Reads a whole file of raw BTF in this machine's byte order.
    ///
    /// # Errors
    /// When it is cut off, or has a kind of type that Linux 6.18 does not have.
    pub(super) fn read(raw: &[u8]) -> Result<Self> {
        let header = raw.get(..HEADER_BYTES).context("the header is cut off")?;
        let word = |at: usize| word(header, at).map(|word| word as usize);
        let (Some(start), Some(type_offset), Some(type_bytes), Some(strings_offset)) =
            (word(4), word(8), word(12), word(16))
        else {
            bail!("the header is cut off");
        };
        let strings = raw
            .get(start + strings_offset..)
            .context("the strings are cut off")?;
        let mut types = raw
            .get(start + type_offset..)
            .and_then(|rest| rest.get(..type_bytes))
            .context("the types are cut off")?;
        let mut names = Self {
            hasher: DefaultHashBuilder::default(),
            // Some 40 bytes each, of which a third has a name that is looked up.
            entries: Vec::with_capacity(type_bytes / 40),
        };
        let mut id = 0_u32;
        while !types.is_empty() {
            id += 1;
            let (Some(name), Some(info)) = (self::word(types, 0), self::word(types, 4)) else {
                bail!("type {id} is cut off");
            };
            let kind = Kind::of(info).with_context(|| format!("type {id} is of no kind known"))?;
            if kind.looked_up {
                let name = strings
                    .get(name as usize..)
                    .and_then(|rest| CStr::from_bytes_until_nul(rest).ok())
                    .with_context(|| format!("the name of type {id} is cut off"))?;
                names
                    .entries
                    .push(names.hash(name.to_bytes()) | u64::from(id));
            }
            types = types
                .get(TYPE_BYTES + kind.trailing_bytes..)
                .with_context(|| format!("type {id} is cut off"))?;
        }
        Ok(names)
    }

    /// The ids of the types that may have this name, lowest first: names differ that have the same hash.
    pub(super) fn candidates(&self, name: &str) -> impl Iterator<Item = u32> {
        let hash = self.hash(name.as_bytes());
        self.entries
            .iter()
            .filter(move |entry| (**entry ^ hash) >> 32 == 0)
            .map(|entry| u32::try_from(entry & u64::from(u32::MAX)).unwrap_or_default())
    }

    /// The upper half; the lower one is 0.
    fn hash(&self, name: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(name);
        hasher.finish() & !u64::from(u32::MAX)
    }
}

/// What to know of a type to go on to the next.
struct Kind {
    looked_up: bool,
    /// Bytes that follow `struct btf_type`.
    trailing_bytes: usize,
}

impl Kind {
    /// By the word `info` of `struct btf_type`. The kinds, and what follows each: include/uapi/linux/btf.h,
    /// `BTF_KIND_INT` to `BTF_KIND_ENUM64` (v6.18).
    fn of(info: u32) -> Option<Self> {
        let members = (info & 0xffff) as usize;
        let (looked_up, trailing_bytes) = match info >> 24 & 0x1f {
            // Pointers, forward declarations, modifiers, floating point and tags of types.
            2 | 7 | 9 | 10 | 11 | 16 | 18 => (false, 0),
            // Typedefs and functions.
            8 | 12 => (true, 0),
            // Integers, variables and tags of declarations.
            1 | 14 | 17 => (false, 4),
            // Arrays.
            3 => (false, 12),
            // Structures.
            4 => (true, 12 * members),
            // Unions, sections of data and enums of 64 bits.
            5 | 15 | 19 => (false, 12 * members),
            // Enums.
            6 => (true, 8 * members),
            // Prototypes.
            13 => (false, 8 * members),
            _ => return None,
        };
        Some(Self {
            looked_up,
            trailing_bytes,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*word))
}
