//! Raw BTF with one thing changed: a field that lies elsewhere, a function with other arguments, a name
//! that is gone. Format: include/uapi/linux/btf.h (v6.18).

use anyhow::{Context, Result, bail, ensure};

const STR_LEN: usize = 20;
const HEADER: usize = 24;
/// Bytes of `struct btf_type`, and of `struct btf_member`.
const TYPE: usize = 12;
const MEMBER: usize = 12;

const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;

/// The types of a kernel, to be changed.
#[derive(Clone)]
pub(crate) struct Types {
    bytes: Vec<u8>,
    /// Where each type begins, by its number; that of number 0, which is void, means nothing.
    starts: Vec<usize>,
    /// Where the names begin.
    strings: usize,
}

/// A member of a structure.
#[derive(Clone, Copy)]
pub(crate) struct Member {
    /// Number of the structure or union that it stands in itself.
    within: u32,
    /// Where it is described.
    at: usize,
}

impl Types {
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Self> {
        ensure!(
            bytes.len() > HEADER && bytes[..2] == 0xeb9f_u16.to_ne_bytes(),
            "no BTF"
        );
        let mut types = Self {
            bytes,
            starts: vec![0],
            strings: 0,
        };
        let header = types.word(4) as usize;
        types.strings = header + types.word(16) as usize;
        let mut at = header + types.word(8) as usize;
        let end = at + types.word(12) as usize;
        // A new name is put behind the last one, so nothing may come there.
        ensure!(
            types.strings + types.word(STR_LEN) as usize == types.bytes.len(),
            "the names do not end the file"
        );
        while at < end {
            types.starts.push(at);
            let many = types.length_at(at);
            at += TYPE
                + match types.kind_at(at) {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    4 | 5 | 15 | 19 => 12 * many,
                    6 | 13 => 8 * many,
                    2 | 7..=12 | 16 | 18 => 0,
                    kind => bail!("BTF of kind {kind}"),
                };
        }
        Ok(types)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The member at the end of `path`, names separated by dots, from `structure`; `None` when there is
    /// none.
    pub(crate) fn member(&self, structure: &str, path: &str) -> Option<Member> {
        let mut within = self.named(structure, STRUCT)?;
        let mut found = None;
        for name in path.split('.') {
            let member = self.member_of(within, name)?;
            within = self.behind(self.word(member.at + 4))?;
            found = Some(member);
        }
        found
    }

    /// Moves the member by so many bytes.
    pub(crate) fn shift(&mut self, member: Member, bytes: i32) -> Result<()> {
        let offset = self.word(member.at + 8);
        let (size, bit) = if self.has_bit_fields(member.within) {
            (offset & 0xff00_0000, offset & 0x00ff_ffff)
        } else {
            (0, offset)
        };
        let moved = bit
            .checked_add_signed(bytes * 8)
            .context("a field would lie before its structure")?;
        self.set_word(member.at + 8, size | moved);
        Ok(())
    }

    /// Makes every other member of the same structure one whose size nobody knows, so that nothing shows
    /// that the member lies where another one is. What stands without a name, or is one of `kept`, stays what
    /// it is.
    pub(crate) fn blur(&mut self, member: Member, kept: &[&str]) {
        for other in self.members_of(member.within) {
            let name = self.name(self.word(other.at));
            let is_kept = name.is_empty() || kept.iter().any(|kept| kept.as_bytes() == name);
            if other.at != member.at && !is_kept {
                self.set_word(other.at + 4, 0);
            }
        }
    }

    /// Gives the member another name.
    pub(crate) fn rename(&mut self, member: Member) {
        let name = self.add_name();
        self.set_word(member.at, name);
    }

    /// Gives the function another name; says whether there was one.
    pub(crate) fn rename_function(&mut self, name: &str) -> bool {
        let Some(function) = self.named(name, FUNC) else {
            return false;
        };
        let name = self.add_name();
        self.set_word(self.starts[function as usize], name);
        true
    }

    /// Gives the function so many arguments; says whether there was one.
    pub(crate) fn give_arguments(&mut self, name: &str, arguments: usize) -> Result<bool> {
        let Some(function) = self.named(name, FUNC) else {
            return Ok(false);
        };
        let prototype = (1..self.starts.len())
            .find(|id| {
                let at = self.starts[*id];
                self.kind_at(at) == FUNC_PROTO && self.length_at(at) == arguments
            })
            .with_context(|| format!("no function has {arguments} arguments"))?;
        self.set_word(
            self.starts[function as usize] + 8,
            u32::try_from(prototype)?,
        );
        Ok(true)
    }

    /// How many arguments the function has.
    pub(crate) fn arguments(&self, name: &str) -> Option<usize> {
        let function = self.starts[self.named(name, FUNC)? as usize];
        Some(self.length_at(self.starts[self.word(function + 8) as usize]))
    }

    fn add_name(&mut self) -> u32 {
        let name = self.word(STR_LEN);
        self.bytes.extend(b"no_such_thing\0");
        let length = u32::try_from(self.bytes.len() - self.strings);
        self.set_word(STR_LEN, length.unwrap_or(u32::MAX));
        name
    }

    /// The first type of this name and kind.
    fn named(&self, name: &str, kind: u32) -> Option<u32> {
        let found = (1..self.starts.len()).find(|id| {
            let at = self.starts[*id];
            self.kind_at(at) == kind && self.name(self.word(at)) == name.as_bytes()
        })?;
        u32::try_from(found).ok()
    }

    fn member_of(&self, within: u32, name: &str) -> Option<Member> {
        self.members_of(within).into_iter().find_map(|member| {
            let its_name = self.name(self.word(member.at));
            if its_name == name.as_bytes() {
                return Some(member);
            }
            if !its_name.is_empty() {
                return None;
            }
            self.member_of(self.behind(self.word(member.at + 4))?, name)
        })
    }

    fn members_of(&self, within: u32) -> Vec<Member> {
        let at = self.starts[within as usize];
        if !matches!(self.kind_at(at), STRUCT | UNION) {
            return Vec::new();
        }
        (0..self.length_at(at))
            .map(|index| Member {
                within,
                at: at + TYPE + index * MEMBER,
            })
            .collect()
    }

    /// The type behind typedefs and modifiers; `None` for void.
    fn behind(&self, mut id: u32) -> Option<u32> {
        while id != 0 {
            let at = self.starts[id as usize];
            match self.kind_at(at) {
                8..=11 | 18 => id = self.word(at + 8),
                _ => return Some(id),
            }
        }
        None
    }

    fn has_bit_fields(&self, id: u32) -> bool {
        self.word(self.starts[id as usize] + 4) >> 31 == 1
    }

    fn kind_at(&self, at: usize) -> u32 {
        (self.word(at + 4) >> 24) & 0x1f
    }

    fn length_at(&self, at: usize) -> usize {
        (self.word(at + 4) & 0xffff) as usize
    }

    fn name(&self, offset: u32) -> &[u8] {
        let name = &self.bytes[self.strings + offset as usize..];
        let end = name.iter().position(|byte| *byte == 0);
        &name[..end.unwrap_or(0)]
    }

    fn word(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.bytes[at..at + 4]);
        u32::from_ne_bytes(bytes)
    }

    fn set_word(&mut self, at: usize, word: u32) {
        self.bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
}
