//! Owns the program that does nothing but hand over a record: it calls the helpers that none can do without, even
//! where a program reads the kernel's memory by itself (Linux 6.17), and fills the record; somebody reads it. That is
//! the limit of any program that tells as much.

use std::{
    hint, io,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::floor::{bpf, new_descriptor};
use anyhow::{Context as _, Result};

/// A command and a type of map of bpf(2): include/uapi/linux/bpf.h (v6.18).
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_TYPE_RINGBUF: u32 = 27;
/// Helpers of `___BPF_FUNC_MAPPER` there.
const GET_CURRENT_TASK: i32 = 35;
const KTIME_GET_BOOT_NS: i32 = 125;
const RINGBUF_RESERVE: i32 = 131;
const RINGBUF_SUBMIT: i32 = 132;
/// `BPF_RB_NO_WAKEUP` there.
const NO_WAKEUP: i32 = 1;
/// Bytes of the buffer, read many times a second.
const BUFFER_BYTES: usize = 16 << 20;
const READ_EVERY: Duration = Duration::from_millis(2);
const PAGE: usize = 4096;

/// The buffer that the program fills, and who reads it.
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
            max_entries: u32::try_from(BUFFER_BYTES)?,
        };
        let map = new_descriptor(bpf(BPF_MAP_CREATE, &attr)).context("cannot make a buffer")?;
        let mapped = Mapped::map(&map).context("cannot map the buffer")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                mapped.read();
                thread::sleep(READ_EVERY);
            }
        });
        Ok(Self {
            map,
            stop,
            reader: Some(reader),
        })
    }

    /// The program: the clock, the task, a record of so many bytes, a multiple of 8, that wakes nobody.
    pub(super) fn program(&self, bytes: usize) -> Result<Vec<u64>> {
        let bytes = i16::try_from(bytes)?;
        let mut program = vec![call(KTIME_GET_BOOT_NS), call(GET_CURRENT_TASK)];
        program.extend(self.address(1));
        program.extend([
            set(2, bytes.into()),
            set(3, 0),
            call(RINGBUF_RESERVE),
            // Over all that is about the record if there is no room.
            instruction(0x15, 0, 0, bytes / 8 + 3, 0),
        ]);
        // *(u64 *)(r0 + at) = at
        program.extend(
            (0..bytes)
                .step_by(8)
                .map(|at| instruction(0x7a, 0, 0, at, at.into())),
        );
        program.extend([
            instruction(0xbf, 1, 0, 0, 0),
            set(2, NO_WAKEUP),
            call(RINGBUF_SUBMIT),
            set(0, 0),
            instruction(0x95, 0, 0, 0, 0),
        ]);
        Ok(program)
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

/// The buffer as user space maps it, kernel/bpf/ringbuf.c `struct bpf_ringbuf` (v6.18): how far it is read, on a
/// writable page; how far it is filled, on another; and twice what is in it.
struct Mapped {
    consumer: *mut libc::c_void,
    producer: *mut libc::c_void,
}

/// Bytes of what is mapped from the second page on.
const FROM_PRODUCER: usize = PAGE + 2 * BUFFER_BYTES;

// SAFETY: the mappings belong to nobody else, and the positions are accessed atomically.
unsafe impl Send for Mapped {}

impl Mapped {
    fn map(ring: &OwnedFd) -> io::Result<Self> {
        let map = |bytes, protection, offset| {
            // SAFETY: a new mapping, of what the kernel has.
            let pages = unsafe {
                libc::mmap(
                    ptr::null_mut(),
                    bytes,
                    protection,
                    libc::MAP_SHARED,
                    ring.as_raw_fd(),
                    offset,
                )
            };
            if pages == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            Ok(pages)
        };
        Ok(Self {
            consumer: map(PAGE, libc::PROT_READ | libc::PROT_WRITE, 0)?,
            producer: map(FROM_PRODUCER, libc::PROT_READ, 4096)?,
        })
    }

    /// Reads every record.
    fn read(&self) {
        // SAFETY: each page begins with an aligned position, which the kernel accesses atomically; the records between
        // them are there, and whatever bytes they have make words.
        unsafe {
            let produced = (*self.producer.cast::<AtomicUsize>()).load(Ordering::Acquire);
            let consumer = &*self.consumer.cast::<AtomicUsize>();
            let records = self.producer.byte_add(PAGE);
            for at in (consumer.load(Ordering::Relaxed)..produced).step_by(8) {
                let word = records.byte_add(at % BUFFER_BYTES).cast::<u64>();
                hint::black_box(word.read_volatile());
            }
            consumer.store(produced, Ordering::Release);
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        for (pages, bytes) in [(self.consumer, PAGE), (self.producer, FROM_PRODUCER)] {
            // SAFETY: it was mapped above, and nothing uses it any more.
            unsafe { libc::munmap(pages, bytes) };
        }
    }
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
