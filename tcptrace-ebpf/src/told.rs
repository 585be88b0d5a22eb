//! Owns how the programs come by what user space knows before it loads them: [`Config`].

use core::{arch::asm, hint::assert_unchecked, mem::offset_of};

use tcptrace_common::{Bits, Config, placeholder};

/// A field of [`Config`], as user space has put it in before loading. The verifier knows it, and drops the branches
/// that it rules out.
macro_rules! config {
    ($($field:ident).+) => {
        $crate::told::told::<{ core::mem::offset_of!(tcptrace_common::Config, $($field).+) }, _>(
            |config: &tcptrace_common::Config| config.$($field).+,
        )
    };
}
pub(crate) use config;

/// What the field at `AT` of [`Config`] holds. `_field` only says of what type that is.
#[inline(always)]
pub(crate) fn told<const AT: usize, T: Value>(_field: fn(&Config) -> T) -> T {
    T::told::<AT>()
}

/// What a field of [`Config`] can be.
pub(crate) trait Value {
    /// What the one at `AT` holds.
    fn told<const AT: usize>() -> Self;
}

impl Value for u64 {
    #[inline(always)]
    fn told<const AT: usize>() -> Self {
        constant::<AT, 0, 8>()
    }
}

impl Value for u32 {
    #[inline(always)]
    fn told<const AT: usize>() -> Self {
        half::<AT, 0>()
    }
}

impl Value for Bits {
    #[inline(always)]
    fn told<const AT: usize>() -> Self {
        Self {
            byte: half::<AT, { offset_of!(Self, byte) }>(),
            mask: half::<AT, { offset_of!(Self, mask) }>(),
        }
    }
}

/// The 32 bits that lie `FURTHER` bytes behind `AT`.
#[inline(always)]
fn half<const AT: usize, const FURTHER: usize>() -> u32 {
    let value = constant::<AT, FURTHER, 4>();
    // SAFETY: user space puts no more there.
    unsafe { assert_unchecked(value <= 0xffff_ffff) };
    value as u32
}

/// The constant that user space makes of so many bytes there.
#[inline(always)]
fn constant<const AT: usize, const FURTHER: usize, const BYTES: usize>() -> u64 {
    let value;
    // SAFETY: the instruction loads a constant.
    unsafe {
        asm!(
            "{value} = {placeholder} ll",
            value = out(reg) value,
            placeholder = const placeholder::value(AT + FURTHER, BYTES),
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    value
}
