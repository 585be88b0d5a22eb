//! What stands in the eBPF object for what only the running machine knows. User space puts it in before it loads the
//! object, so that it costs the programs no more than what the compiler knows.

/// Upper half of the 64-bit constant (`BPF_LD | BPF_DW | BPF_IMM`) that stands for a value of [`crate::Config`];
/// which one, the lower half says: see [`value`].
pub const VALUE: u32 = 0x7463_7063;

/// The offset of a load (`BPF_LDX`) that stands for that of a field of the kernel's structures is at least this;
/// which one, what is beyond says: see [`field`]. No program has anything so large to load from by itself.
pub const FIELD: usize = 0x4000;

/// What stands for the value of `bytes` (4 or 8) at this offset of [`crate::Config`].
///
/// # Panics
/// When there is no such value. It is for constants: they do not compile then.
#[must_use]
pub const fn value(at: usize, bytes: usize) -> u64 {
    assert!(at < 1 << 16 && (bytes == 4 || bytes == 8));
    ((VALUE as u64) << 32) | (bytes << 16 | at) as u64
}

/// What stands for the offset in the kernel that [`crate::Config`] tells at `at`, a multiple of 4, and `further`
/// bytes on: 0, 4, 8 or 12.
///
/// # Panics
/// When there is no such field, likewise.
#[must_use]
pub const fn field(at: usize, further: usize) -> usize {
    assert!(at.is_multiple_of(4) && further.is_multiple_of(4) && further < 16);
    assert!(at < 0x4000);
    FIELD + at + further / 4
}
