//! Owns the program that does nothing but call the helpers that a record of a state change cannot do without, even
//! where a program reads the kernel's memory by itself (Linux 6.17): what the kernel charges for them is the limit of
//! any program that tells as much.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tcptrace_common::TransitionRecord;

use super::floor::{bpf, new_descriptor};

/// A command and a type of map of bpf(2): include/uapi/linux/bpf.h (v6.18).
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_TYPE_RINGBUF: u32 = 27;
/// Helpers of `___BPF_FUNC_MAPPER` there.
const GET_CURRENT_TASK: i32 = 35;
const KTIME_GET_BOOT_NS: i32 = 125;
const RINGBUF_RESERVE: i32 = 131;
const RINGBUF_SUBMIT: i32 = 132;
const RINGBUF_QUERY: i32 = 134;
/// `BPF_RB_NO_WAKEUP` there.
const NO_WAKEUP: i32 = 1;
/// Bytes of the buffer, emptied many times a second.
const BUFFER_BYTES: u32 = 16 << 20;
const EMPTIED_EVERY: Duration = Duration::from_millis(2);
const PAGE: usize = 4096;

/// The buffer that the program fills, and who empties it.
pub(super) struct Ring {
    map: OwnedFd,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Ring {
    /// Makes it.
    pub(super) fn new() -> Result<Self> {
        #[repr(C)]
        struct Create {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
        }
        let attr = Create {
            map_type: BPF_MAP_TYPE_RINGBUF,
            key_size: 0,
            value_size: 0,
            max_entries: BUFFER_BYTES,
        };
        let map = new_descriptor(bpf(BPF_MAP_CREATE, &attr)).context("cannot make a buffer")?;
        let positions = Positions::map(&map).context("cannot map the buffer")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                positions.empty();
                thread::sleep(EMPTIED_EVERY);
            }
        });
        Ok(Self {
            map,
            stop,
            reader: Some(reader),
        })
    }

    /// The program: the clock, the task, a record that wakes nobody.
    pub(super) fn program(&self) -> Vec<u64> {
        let mut program = vec![call(KTIME_GET_BOOT_NS), call(GET_CURRENT_TASK)];
        program.extend(self.address(1));
        program.extend([set(2, 0), call(RINGBUF_QUERY)]);
        program.extend(self.address(1));
        program.extend([
            set(2, number(size_of::<TransitionRecord>())),
            set(3, 0),
            call(RINGBUF_RESERVE),
            // Over the next three if there is no room.
            instruction(0x15, 0, 0, 3, 0),
            instruction(0xbf, 1, 0, 0, 0),
            set(2, NO_WAKEUP),
            call(RINGBUF_SUBMIT),
            set(0, 0),
            instruction(0x95, 0, 0, 0, 0),
        ]);
        program
    }

    /// Loads the address of the map: an instruction of two words.
    fn address(&self, register: u8) -> [u64; 2] {
        [
            instruction(0x18, register, 1, 0, self.map.as_raw_fd()),
            instruction(0, 0, 0, 0, 0),
        ]
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // It cannot panic, and there is nothing to do about it here.
            let _ = reader.join();
        }
    }
}

/// How far the buffer is filled and read: the first page, writable, and the second one, of kernel/bpf/ringbuf.c
/// `struct bpf_ringbuf` (v6.18).
struct Positions {
    consumer: *mut libc::c_void,
    producer: *mut libc::c_void,
}

// SAFETY: the mappings belong to nobody else, and are accessed atomically.
unsafe impl Send for Positions {}

impl Positions {
    fn map(ring: &OwnedFd) -> io::Result<Self> {
        let page = |protection, offset| {
            // SAFETY: a new mapping, of a page that the kernel has.
            let page = unsafe {
                libc::mmap(
                    ptr::null_mut(),
                    PAGE,
                    protection,
                    libc::MAP_SHARED,
                    ring.as_raw_fd(),
                    offset,
                )
            };
            if page == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            Ok(page)
        };
        Ok(Self {
            consumer: page(libc::PROT_READ | libc::PROT_WRITE, 0)?,
            producer: page(libc::PROT_READ, 4096)?,
        })
    }

    /// Takes all records as read.
    fn empty(&self) {
        // SAFETY: each page begins with an aligned position of 8 bytes, which the kernel accesses atomically.
        unsafe {
            let produced = (*self.producer.cast::<AtomicU64>()).load(Ordering::Acquire);
            (*self.consumer.cast::<AtomicU64>()).store(produced, Ordering::Release);
        }
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        for page in [self.consumer, self.producer] {
            // SAFETY: it was mapped above, and nothing uses it any more.
            unsafe { libc::munmap(page, PAGE) };
        }
    }
}

/// The size of a record, below a page.
fn number(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

/// `struct bpf_insn` as a number.
fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(to | from << 4) << 8
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(immediate.cast_unsigned()) << 32
}

fn set(register: u8, value: i32) -> u64 {
    instruction(0xb7, register, 0, 0, value)
}

fn call(helper: i32) -> u64 {
    instruction(0x85, 0, 0, 0, helper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_laid_out_as_the_kernel_reads_them() {
        // r2 = 16; r3 += -8; if r0 == 0 goto +3
        assert_eq!(set(2, 16), 0x0000_0010_0000_02b7);
        assert_eq!(instruction(0x07, 3, 0, 0, -8), 0xffff_fff8_0000_0307);
        assert_eq!(instruction(0x15, 0, 0, 3, 0), 0x0000_0000_0003_0015);
    }
}
