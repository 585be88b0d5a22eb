//! Owns the reads of the kernel's memory: by offsets from the running kernel's BTF, never by offsets known at
//! compile time.
//!
//! A helper takes its time to copy a field (docs/performance.md), and says when it cannot. From 6.17 on a program
//! may read the kernel's memory by instructions of its own; what cannot be read is 0 then. What every event needs
//! is read that way where the kernel allows it.

use core::{
    arch::asm,
    ffi::c_void,
    hint::assert_unchecked,
    mem::{self, MaybeUninit, size_of},
    ptr,
};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
#[cfg(doc)]
use tcptrace_common::Config;
use tcptrace_common::{kfunc, placeholder};

use crate::told::{Value as _, config};

/// Where a field of the kernel's lies, by where [`Config`] tells its offset: `AT`.
#[derive(Clone, Copy)]
pub(crate) struct Place<const AT: usize>;

impl<const AT: usize> Place<AT> {
    /// In bytes from the beginning of its structure.
    #[inline(always)]
    pub(crate) fn offset() -> u32 {
        u32::told::<AT>()
    }
}

/// The [`Place`] of the field that [`Config`] knows by this name.
macro_rules! place {
    ($($field:ident).+) => {
        $crate::memory::Place::<{ core::mem::offset_of!(tcptrace_common::Config, $($field).+) }>
    };
}
pub(crate) use place;

/// Copies what lies at `address` of kernel memory, of any kind, by the helper; returns what that returns: 0, or a
/// negative errno where it cannot be read.
#[inline(always)]
pub(crate) fn probe<T: Copy>(to: &mut MaybeUninit<T>, address: u64) -> i64 {
    // SAFETY: `to` is as large as the size given; the helper fails on a bad source address.
    unsafe {
        bpf_probe_read_kernel(
            to.as_mut_ptr().cast::<c_void>(),
            size_of::<T>() as u32,
            address as *const c_void,
        )
    }
}

/// Reads a `T` at `base + offset` of kernel memory; `None` when that address cannot be read.
#[inline(always)]
pub(crate) fn read<T: Copy>(base: u64, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let result = probe(&mut value, base + u64::from(offset));
    // SAFETY: the helper has filled all of `value` when it returns 0.
    (result == 0).then(|| unsafe { value.assume_init() })
}

/// Whether the program reads the kernel's memory by itself. The verifier knows, and leaves out the other way.
#[inline(always)]
pub(crate) fn is_direct() -> bool {
    config!(direct_reads) != 0
}

/// What can be read by one instruction.
pub(crate) trait Word: Copy {
    /// What lies at `O` behind `object`; 0 where there is nothing to be read.
    ///
    /// # Safety
    /// `object` must come from [`cast`].
    unsafe fn load<O: Offset>(object: *const u8) -> Self;
}

/// The offset of a load, as it stands in the instruction.
pub(crate) trait Offset {
    const IN_OBJECT: usize;
}

/// That of what lies `FURTHER` bytes behind the field that [`Config`] knows at `AT`.
struct Behind<const AT: usize, const FURTHER: usize>;

impl<const AT: usize, const FURTHER: usize> Offset for Behind<AT, FURTHER> {
    const IN_OBJECT: usize = placeholder::field(AT, FURTHER);
}

/// None.
struct First;

impl Offset for First {
    const IN_OBJECT: usize = 0;
}

/// The same value, which the compiler knows not to be larger then.
///
/// # Safety
/// It must not be.
#[inline(always)]
unsafe fn at_most(value: u64, largest: u64) -> u64 {
    // SAFETY: the caller vouches for it.
    unsafe { assert_unchecked(value <= largest) };
    value
}

macro_rules! word {
    ($type:ty, $largest:expr, $load:literal) => {
        impl Word for $type {
            #[inline(always)]
            unsafe fn load<O: Offset>(object: *const u8) -> Self {
                let value: u64;
                // SAFETY: the caller vouches for `object`; a load leaves the bits above at 0.
                unsafe {
                    asm!(
                        concat!("{value} = *(", $load, " *)({object} + {offset})"),
                        value = lateout(reg) value,
                        object = in(reg) object,
                        offset = const O::IN_OBJECT,
                        options(pure, readonly, nostack, preserves_flags),
                    );
                    at_most(value, $largest) as Self
                }
            }
        }
    };
}

word!(u8, 0xff, "u8");
word!(u16, 0xffff, "u16");
word!(u32, 0xffff_ffff, "u32");
word!(u64, u64::MAX, "u64");

/// Makes an address one that the program may read from, by itself.
///
/// kernel/bpf/helpers.c `bpf_rdonly_cast` (v6.18) makes a pointer to memory of no type out of any address if the
/// type's id is 0 (since 6.17). The kernel catches faults of reads through it: kernel/bpf/verifier.c
/// `convert_ctx_accesses`, `BPF_PROBE_MEM`.
#[inline(always)]
fn cast(address: u64) -> *const u8 {
    // SAFETY: user space puts a call of that function in the place of this helper, which takes any address.
    unsafe {
        let cast: extern "C" fn(u64, u32) -> *const u8 =
            mem::transmute(kfunc::RDONLY_CAST as usize);
        cast(address, 0)
    }
}

/// A structure of the kernel's.
#[derive(Clone, Copy)]
pub(crate) struct Object {
    address: u64,
    /// The same, to read from; nothing where a helper reads.
    cast: *const u8,
}

impl Object {
    /// That at this address.
    #[inline(always)]
    pub(crate) fn at(address: u64) -> Self {
        Self {
            address,
            cast: if is_direct() {
                cast(address)
            } else {
                ptr::null()
            },
        }
    }

    /// Where in the kernel's memory it lies.
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.address
    }

    /// Reads a field in the fastest way that there is. Where it cannot be read it is `None` if a helper reads, and 0
    /// if the program itself does.
    #[inline(always)]
    pub(crate) fn load<T: Word, const AT: usize>(self, place: Place<AT>) -> Option<T> {
        if is_direct() {
            return Some(self.direct::<T, AT, 0>(place));
        }
        read(self.address, Place::<AT>::offset())
    }

    /// Two fields of 8 bytes, or what is as long; in one go where the second follows the first.
    #[inline(always)]
    pub(crate) fn load_two<const FIRST: usize, const SECOND: usize>(
        self,
        first: Place<FIRST>,
        second: Place<SECOND>,
    ) -> Option<(u64, u64)> {
        if !is_direct() && Place::<SECOND>::offset() == Place::<FIRST>::offset() + 8 {
            let [first, second]: [u64; 2] = read(self.address, Place::<FIRST>::offset())?;
            return Some((first, second));
        }
        Some((self.load(first)?, self.load(second)?))
    }

    /// 16 bytes as four words; for [`is_direct`] only.
    #[inline(always)]
    pub(crate) fn direct_words<const AT: usize>(self, place: Place<AT>) -> [u32; 4] {
        [
            self.direct::<u32, AT, 0>(place),
            self.direct::<u32, AT, 4>(place),
            self.direct::<u32, AT, 8>(place),
            self.direct::<u32, AT, 12>(place),
        ]
    }

    #[inline(always)]
    fn direct<T: Word, const AT: usize, const FURTHER: usize>(self, _place: Place<AT>) -> T {
        // SAFETY: it has been cast where the program reads by itself.
        unsafe { T::load::<Behind<AT, FURTHER>>(self.cast) }
    }
}

/// A field of the structure at `address`, as [`Object::load`] reads it.
#[inline(always)]
pub(crate) fn load<T: Word, const AT: usize>(address: u64, place: Place<AT>) -> Option<T> {
    Object::at(address).load(place)
}

/// What lies at `address`, likewise.
#[inline(always)]
pub(crate) fn load_at<T: Word>(address: u64) -> Option<T> {
    if is_direct() {
        return Some(direct_at(address));
    }
    read(address, 0)
}

/// Likewise, by the program itself.
#[inline(always)]
fn direct_at<T: Word>(address: u64) -> T {
    // SAFETY: it is cast.
    unsafe { T::load::<First>(cast(address)) }
}

/// Room for a copy of `WORDS` × 8 bytes, on the stack or in a map.
#[repr(C)]
pub(crate) struct Room<const WORDS: usize>(MaybeUninit<[u64; WORDS]>);

impl<const WORDS: usize> Room<WORDS> {
    /// Room that holds nothing yet.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    /// Copies what lies at `address`, in one go, since a helper takes about 40 ns whatever the size; says whether
    /// that could be read.
    #[inline(always)]
    pub(crate) fn copy(&mut self, address: u64) -> bool {
        probe(&mut self.0, address) == 0
    }

    /// What the copy, which has been made, holds at this offset.
    #[inline(always)]
    pub(crate) fn copied<T: Word>(&self, offset: u32) -> T {
        // SAFETY: user space refuses to load the program with an offset beyond the room, and so does the verifier,
        // which also sees that it has been filled.
        unsafe {
            ptr::read(
                self.0
                    .as_ptr()
                    .cast::<u8>()
                    .add(offset as usize)
                    .cast::<T>(),
            )
        }
    }

    /// The beginning of the structure at `address`, for what is to be read there; `None` when it cannot be.
    #[inline(always)]
    pub(crate) fn window(&mut self, address: u64) -> Option<Window<'_, WORDS>> {
        let object = Object::at(address);
        if !is_direct() && !self.copy(address) {
            return None;
        }
        Some(Window { object, room: self })
    }
}

/// The beginning of a structure of the kernel's: a copy, or only where it is, where the program reads by itself.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a, const WORDS: usize> {
    object: Object,
    room: &'a Room<WORDS>,
}

impl<const WORDS: usize> Window<'_, WORDS> {
    /// The whole structure.
    #[inline(always)]
    pub(crate) fn object(&self) -> Object {
        self.object
    }

    /// A field of the structure.
    #[inline(always)]
    pub(crate) fn field<T: Word, const AT: usize>(&self, place: Place<AT>) -> T {
        if is_direct() {
            return self.object.direct::<T, AT, 0>(place);
        }
        self.room.copied(Place::<AT>::offset())
    }

    /// The field at this offset.
    #[inline(always)]
    pub(crate) fn field_at<T: Word>(&self, offset: u32) -> T {
        if is_direct() {
            return direct_at(self.object.address + u64::from(offset));
        }
        self.room.copied(offset)
    }

    /// 16 bytes as four words.
    #[inline(always)]
    pub(crate) fn words<const AT: usize>(&self, place: Place<AT>) -> [u32; 4] {
        if is_direct() {
            return self.object.direct_words(place);
        }
        let offset = Place::<AT>::offset();
        // Not by `map`, which the compiler may make a function of its own.
        [
            self.room.copied(offset),
            self.room.copied(offset + 4),
            self.room.copied(offset + 8),
            self.room.copied(offset + 12),
        ]
    }
}
