//! Owns what is put into the eBPF object before it is loaded, in the place of what only stands for it there: calls of
//! the kernel's own functions ([`tcptrace_common::kfunc`]), what the programs are told, and where the fields of the
//! kernel's structures lie ([`placeholder`]).

use std::mem::{self, size_of};

use anyhow::{Context, Result, ensure};
use object::{Object as _, ObjectSection as _, SectionKind};
use tcptrace_common::{Config, Offsets, placeholder};

use super::{OBJECT, kfuncs::Kfuncs};

/// Bytes of `struct bpf_insn`: include/uapi/linux/bpf.h (v6.18).
const INSTRUCTION_BYTES: usize = 8;
/// `BPF_JMP | BPF_CALL` there.
pub(super) const CALL: u8 = 0x85;
/// `BPF_LD | BPF_DW | BPF_IMM` there, which takes the place of two instructions.
const CONSTANT: u8 = 0x18;
/// `BPF_LDX | BPF_MEM` there, with the size as further bits.
const LOAD: u8 = 0x61;
/// The bits of the size.
const SIZE: u8 = 0x18;

/// The section of each program on a tracepoint begins with this.
const RAW_TRACEPOINT: &str = "raw_tp/";

/// A `struct bpf_insn`: operation, registers, offset, constant.
pub(super) type Instruction = [u8; INSTRUCTION_BYTES];

/// [`Config`] as words.
type Told = [u32; size_of::<Config>() / size_of::<u32>()];

/// The eBPF object with `kfuncs` and `config` put in; with [`Config::direct_reads`] where the kernel lets its
/// programs read so, whatever `config` says of that.
///
/// # Errors
/// When the object is not as it should be.
pub(crate) fn linked(kfuncs: Kfuncs, config: &Config) -> Result<Linked> {
    let places = places(OBJECT)?;
    let told = told(&Config {
        direct_reads: (kfuncs.are_reads_direct() && do_fields_fit(&places, &told(config))?).into(),
        ..*config
    });
    let mut linked = Linked::copy(OBJECT);
    for place in places {
        let instructions = linked
            .bytes_mut()
            .get_mut(place.at..)
            .and_then(<[u8]>::split_first_chunk_mut::<INSTRUCTION_BYTES>)
            .context("the eBPF object is cut off")?;
        let (instruction, further) = instructions;
        match place.what {
            What::Call(number) => {
                if let Some(call) = kfuncs.link(place.on_tracepoint, number) {
                    *instruction = call;
                }
            }
            What::Value { at, bytes } => {
                let low = word(&told, at)?;
                let high = if bytes == 8 { word(&told, at + 4)? } else { 0 };
                instruction[4..].copy_from_slice(&low.to_ne_bytes());
                further
                    .first_chunk_mut::<INSTRUCTION_BYTES>()
                    .context("the eBPF object is cut off")?[4..]
                    .copy_from_slice(&high.to_ne_bytes());
            }
            What::Field(field) => {
                // One that does not fit is never loaded so.
                let offset = field.offset(&told)?.unwrap_or(0);
                instruction[2..4].copy_from_slice(&offset.to_ne_bytes());
            }
        }
    }
    Ok(linked)
}

/// Whether an instruction has room for where each field lies that programs read by themselves.
fn do_fields_fit(places: &[Place], told: &Told) -> Result<bool> {
    for place in places {
        if let What::Field(field) = place.what
            && word(told, field.at)? != Offsets::ABSENT
            && field.offset(told)?.is_none()
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn told(config: &Config) -> Told {
    // SAFETY: both are as large, and `Config` is made of integers, with none of its bytes between them.
    unsafe { mem::transmute::<Config, Told>(*config) }
}

/// What [`Config`] holds at this offset. Of 8 bytes the first half is the lower one: the programs run on machines
/// that are little endian, as the object is.
fn word(told: &Told, at: usize) -> Result<u32> {
    ensure!(
        at.is_multiple_of(size_of::<u32>()),
        "the eBPF object asks for what is at {at}"
    );
    told.get(at / size_of::<u32>())
        .copied()
        .with_context(|| format!("the eBPF object asks for what is at {at}"))
}

/// Where in the object something is to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Whether it is in a program on a raw tracepoint.
    on_tracepoint: bool,
    /// In bytes from the beginning of the object.
    at: usize,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A call of the helper with this number, which may be none.
    Call(u32),
    /// What lies at this offset of [`Config`]: [`placeholder::value`].
    Value { at: usize, bytes: usize },
    /// The offset of a field, in a load.
    Field(Field),
}

/// [`placeholder::field`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    /// Where [`Config`] tells the field's offset.
    at: usize,
    /// In bytes from there.
    further: u32,
}

impl Field {
    /// Where it lies; `None` when an instruction has no room for that, or the kernel no such field.
    fn offset(self, told: &Told) -> Result<Option<i16>> {
        let offset = word(told, self.at)?.checked_add(self.further);
        Ok(offset.and_then(|offset| i16::try_from(offset).ok()))
    }
}

fn places(object: &[u8]) -> Result<Vec<Place>> {
    let file = object::File::parse(object).context("cannot read the eBPF object")?;
    let mut places = Vec::new();
    for section in file.sections().filter(|of| of.kind() == SectionKind::Text) {
        let (start, _) = section.file_range().context("a program without code")?;
        let code = section.data().context("cannot read a program's code")?;
        let name = section.name().context("a program without a name")?;
        let on_tracepoint = name.starts_with(RAW_TRACEPOINT);
        let start = usize::try_from(start)?;
        let (instructions, _) = code.as_chunks::<INSTRUCTION_BYTES>();
        let mut rest = instructions;
        while let [instruction, others @ ..] = rest {
            let index = instructions.len() - rest.len();
            rest = others;
            let what = match *instruction {
                [CONSTANT, ..] => {
                    let [second, others @ ..] = others else {
                        break;
                    };
                    rest = others;
                    value(*instruction, *second)
                }
                [CALL, 0, 0, 0, a, b, c, d] => Some(What::Call(u32::from_ne_bytes([a, b, c, d]))),
                [operation, _, a, b, ..] if operation & !SIZE == LOAD => {
                    field(i16::from_ne_bytes([a, b]))
                }
                _ => None,
            };
            if let Some(what) = what {
                places.push(Place {
                    on_tracepoint,
                    at: start + index * INSTRUCTION_BYTES,
                    what,
                });
            }
        }
    }
    Ok(places)
}

/// What a constant stands for, if for anything.
fn value(first: Instruction, second: Instruction) -> Option<What> {
    let half = |of: Instruction| u32::from_ne_bytes([of[4], of[5], of[6], of[7]]);
    let which = half(first) as usize;
    (half(second) == placeholder::VALUE).then_some(What::Value {
        at: which & 0xffff,
        bytes: which >> 16,
    })
}

/// What the offset of a load stands for, if for anything.
fn field(offset: i16) -> Option<What> {
    let which = usize::try_from(offset)
        .ok()?
        .checked_sub(placeholder::FIELD)?;
    Some(What::Field(Field {
        at: which & !3,
        further: u32::try_from(which & 3).ok()? * 4,
    }))
}

/// A copy of the object, aligned as the structures of ELF files want it.
pub(crate) struct Linked {
    words: Vec<u64>,
    len: usize,
}

impl Linked {
    fn copy(object: &[u8]) -> Self {
        let mut linked = Self {
            words: vec![0; object.len().div_ceil(size_of::<u64>())],
            len: object.len(),
        };
        linked.bytes_mut().copy_from_slice(object);
        linked
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the words have at least so many bytes, each of them valid.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and any bytes make valid words.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests;
