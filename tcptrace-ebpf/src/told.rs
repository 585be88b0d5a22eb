//! Owns how the programs come by what user space knows before it loads them: [`Config`].

use core::{arch::asm, hint::assert_unchecked};

#[cfg(doc)]
use tcptrace_common::Config;
use tcptrace_common::{Bits, placeholder};

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
pub(crate) fn told<const AT: usize, T: Value>(_field: fn(&tcptrace_common::Config) -> T) -> T {
    T::told::<AT, 0>()
}

/// What a field of [`Config`] can be.
pub(crate) trait Value {
    /// What it holds `FURTHER` bytes behind `AT`.
    fn told<const AT: usize, const FURTHER: usize>() -> Self;
}

impl Value for u64 {
    #[inline(always)]
    fn told<const AT: usize, const FURTHER: usize>() -> Self {
        let value;
        // SAFETY: the instruction loads a constant.
        unsafe {
            asm!(
                "{value} = {placeholder} ll",
                value = out(reg) value,
                placeholder = const placeholder::value(AT + FURTHER, 8),
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        value
    }
}

impl Value for u32 {
    #[inline(always)]
    fn told<const AT: usize, const FURTHER: usize>() -> Self {
        let value: u64;
        // SAFETY: the instruction loads a constant, which has 32 bits.
        unsafe {
            asm!(
                "{value} = {placeholder} ll",
                value = out(reg) value,
                placeholder = const placeholder::value(AT + FURTHER, 4),
                options(pure, nomem, nostack, preserves_flags),
            );
            assert_unchecked(value <= 0xffff_ffff);
        }
        value as Self
    }
}

impl Value for Bits {
    #[inline(always)]
    fn told<const AT: usize, const FURTHER: usize>() -> Self {
        Self {
            byte: u32::told::<AT, 0>(),
            mask: u32::told::<AT, 4>(),
        }
    }
}

const _: () = assert!(core::mem::offset_of!(Bits, mask) == 4);
