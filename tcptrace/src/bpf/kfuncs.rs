//! Owns the calls of the kernel's own functions (kfuncs) in the eBPF object: each is a number there that no
//! helper has ([`kfunc`]), and becomes a call by the function's id in the kernel's BTF, or nothing.

use std::mem::size_of;

use anyhow::{Context, Result};
use aya_obj::generated::{
    bpf_cmd::BPF_PROG_LOAD, bpf_func_id::BPF_FUNC_probe_read_kernel,
    bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT,
};
use object::{Object as _, ObjectSection as _, SectionKind};
use tcptrace_common::kfunc;

use super::{OBJECT, offsets::KernelTypes};
use crate::host::kernel_version::KernelVersion;

/// Bytes of `struct bpf_insn`: include/uapi/linux/bpf.h (v6.18).
const INSTRUCTION_BYTES: usize = 8;
/// `BPF_JMP | BPF_CALL` there.
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_KFUNC_CALL` there, as `src_reg`: the upper half of its byte on little-endian machines.
const PSEUDO_KFUNC_CALL: u8 = 2 << 4;
/// `BPF_ALU64 | BPF_MOV | BPF_K`: r0 = 0, in the place of a call of nothing.
const NOTHING: Instruction = [0xb7, 0, 0, 0, 0, 0, 0, 0];
/// `r1 = r10; r1 += -8`: the argument of those that take an address.
const ARGUMENT: [Instruction; 2] = [
    [0xbf, 0xa1, 0, 0, 0, 0, 0, 0],
    [0x07, 0x01, 0, 0, 0xf8, 0xff, 0xff, 0xff],
];
/// `r6 = r1`, the context; then, with [`ARGUMENT`] before them, `r2 = 8`, `r3 = 0` and the helper: eight bytes
/// from address 0.
const KEEP_CONTEXT: Instruction = [0xbf, 0x16, 0, 0, 0, 0, 0, 0];
const READ_BY_HELPER: [Instruction; 3] = [
    [0xb7, 0x02, 0, 0, 8, 0, 0, 0],
    [0xb7, 0x03, 0, 0, 0, 0, 0, 0],
    [CALL, 0, 0, 0, BPF_FUNC_probe_read_kernel as u8, 0, 0, 0],
];
/// `r1 = *(u64 *)(r6 + 0)`, the tracepoint's first argument; `r2 = 0`, no type; `r0 = *(u32 *)(r0 + 0)` of what
/// the call between them returns.
const READ: [Instruction; 3] = [
    [0x79, 0x61, 0, 0, 0, 0, 0, 0],
    [0xb7, 0x02, 0, 0, 0, 0, 0, 0],
    [0x61, 0x00, 0, 0, 0, 0, 0, 0],
];
/// `BPF_JMP | BPF_EXIT`.
const EXIT: Instruction = [0x95, 0, 0, 0, 0, 0, 0, 0];

/// The section of each program on a tracepoint begins with this.
const RAW_TRACEPOINT: &str = "raw_tp/";

type Instruction = [u8; INSTRUCTION_BYTES];

/// The functions of the kernel that the programs call where it lets them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kfuncs {
    keep_cpu: Option<KeepCpu>,
    /// By which a program reads memory without a helper: the id of kernel/bpf/helpers.c `bpf_rdonly_cast`, which
    /// takes any address since 6.17.
    rdonly_cast: Option<u32>,
}

/// The functions by which a program keeps its CPU, by their ids in the kernel's own BTF: kernel/bpf/helpers.c
/// (v6.18), since 6.14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeepCpu {
    preempt_disable: u32,
    preempt_enable: u32,
    local_irq_save: u32,
    local_irq_restore: u32,
    /// Whether a task can lose its CPU around a tracepoint, too: include/linux/tracepoint.h
    /// `__DECLARE_TRACE` disables preemption up to 6.19. Seen on 7.2.
    on_tracepoints: bool,
}

impl Kfuncs {
    /// Those of the running kernel: none where it has none, or lets no program call them: without a JIT
    /// compiler, or without BTF of its own.
    pub(crate) fn find(types: &KernelTypes) -> Self {
        Self {
            keep_cpu: KeepCpu::find(types),
            rdonly_cast: (types.own_function("bpf_rdonly_cast")).filter(|cast| takes_all(*cast)),
        }
    }

    /// Whether programs read the kernel's memory without a helper.
    pub(crate) fn are_reads_direct(self) -> bool {
        self.rdonly_cast.is_some()
    }

    /// What is to stand for helper `number` in the section of this name; `None` for what is a helper.
    fn link(self, section: &str, number: u32) -> Option<Instruction> {
        let of: fn(KeepCpu) -> u32 = match number {
            kfunc::PREEMPT_DISABLE => |kfuncs| kfuncs.preempt_disable,
            kfunc::PREEMPT_ENABLE => |kfuncs| kfuncs.preempt_enable,
            kfunc::LOCAL_IRQ_SAVE => |kfuncs| kfuncs.local_irq_save,
            kfunc::LOCAL_IRQ_RESTORE => |kfuncs| kfuncs.local_irq_restore,
            kfunc::RDONLY_CAST => return Some(self.rdonly_cast.map_or(NOTHING, call_of)),
            _ => return None,
        };
        let wanted = (self.keep_cpu)
            .filter(|kfuncs| kfuncs.on_tracepoints || !section.starts_with(RAW_TRACEPOINT));
        Some(wanted.map_or(NOTHING, |kfuncs| call_of(of(kfuncs))))
    }
}

impl KeepCpu {
    fn find(types: &KernelTypes) -> Option<Self> {
        let kfuncs = Self {
            preempt_disable: types.own_function("bpf_preempt_disable")?,
            preempt_enable: types.own_function("bpf_preempt_enable")?,
            local_irq_save: types.own_function("bpf_local_irq_save")?,
            local_irq_restore: types.own_function("bpf_local_irq_restore")?,
            on_tracepoints: KernelVersion::running().is_ok_and(|kernel| kernel.is_at_least(7, 0)),
        };
        kfuncs.are_allowed().then_some(kfuncs)
    }

    fn are_allowed(self) -> bool {
        let [copy, subtract] = ARGUMENT;
        is_taken(&[
            call_of(self.preempt_disable),
            copy,
            subtract,
            call_of(self.local_irq_save),
            call_of(self.preempt_enable),
            copy,
            subtract,
            call_of(self.local_irq_restore),
            NOTHING,
            EXIT,
        ])
    }
}

/// Whether a program may read from whatever address by this function, and by the helper: a kernel locked down for
/// confidentiality refuses only the helper (kernel/bpf/helpers.c `bpf_base_func_proto`, v6.18:
/// `LOCKDOWN_BPF_READ_KERNEL`), and its administrator means both.
fn takes_all(rdonly_cast: u32) -> bool {
    let [copy, subtract] = ARGUMENT;
    let [size, address, by_helper] = READ_BY_HELPER;
    let [first_argument, no_type, read] = READ;
    is_taken(&[
        KEEP_CONTEXT,
        copy,
        subtract,
        size,
        address,
        by_helper,
        first_argument,
        no_type,
        call_of(rdonly_cast),
        read,
        EXIT,
    ])
}

/// Whether the kernel takes this program.
fn is_taken(program: &[Instruction]) -> bool {
    /// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads of such a program.
    #[repr(C)]
    struct ProgLoad {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
    }
    let Ok(insn_cnt) = u32::try_from(program.len()) else {
        return false;
    };
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_RAW_TRACEPOINT as u32,
        insn_cnt,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    // SAFETY: bpf(2) reads `attr`, of the size given, and what it points at; it returns a new descriptor
    // or -1.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attr,
            size_of::<ProgLoad>(),
        );
        libc::c_int::try_from(fd).is_ok_and(|fd| fd >= 0 && libc::close(fd) == 0)
    }
}

/// The eBPF object with its calls of `kfuncs` put in.
///
/// # Errors
/// When the object cannot be read.
pub(crate) fn linked(kfuncs: Kfuncs) -> Result<Linked> {
    let mut linked = Linked::copy(OBJECT);
    for call in calls(OBJECT)? {
        if let Some(instruction) = kfuncs.link(&call.section, call.number) {
            linked
                .bytes_mut()
                .get_mut(call.at..call.at + INSTRUCTION_BYTES)
                .context("the eBPF object is cut off")?
                .copy_from_slice(&instruction);
        }
    }
    Ok(linked)
}

/// A call of a helper.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    section: String,
    /// In bytes from the beginning of the object.
    at: usize,
    number: u32,
}

fn calls(object: &[u8]) -> Result<Vec<Call>> {
    let file = object::File::parse(object).context("cannot read the eBPF object")?;
    let mut calls = Vec::new();
    for section in file.sections().filter(|of| of.kind() == SectionKind::Text) {
        let (start, _) = section.file_range().context("a program without code")?;
        let code = section.data().context("cannot read a program's code")?;
        let name = section.name().context("a program without a name")?;
        let start = usize::try_from(start)?;
        let (instructions, _) = code.as_chunks::<INSTRUCTION_BYTES>();
        for (index, instruction) in instructions.iter().enumerate() {
            if let [CALL, 0, 0, 0, a, b, c, d] = *instruction {
                calls.push(Call {
                    section: name.to_owned(),
                    at: start + index * INSTRUCTION_BYTES,
                    number: u32::from_ne_bytes([a, b, c, d]),
                });
            }
        }
    }
    Ok(calls)
}

fn call_of(function: u32) -> Instruction {
    let [a, b, c, d] = function.to_ne_bytes();
    [CALL, PSEUDO_KFUNC_CALL, 0, 0, a, b, c, d]
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
mod tests {
    use super::*;

    const KEEP_CPU: [u32; 4] = [
        kfunc::PREEMPT_DISABLE,
        kfunc::LOCAL_IRQ_SAVE,
        kfunc::PREEMPT_ENABLE,
        kfunc::LOCAL_IRQ_RESTORE,
    ];

    fn keep_cpu(on_tracepoints: bool) -> KeepCpu {
        KeepCpu {
            preempt_disable: 70_001,
            preempt_enable: 70_002,
            local_irq_save: 70_003,
            local_irq_restore: 70_004,
            on_tracepoints,
        }
    }

    /// The calls of these kfuncs in the object, in each section, in order.
    fn of_kfuncs(numbers: &[u32]) -> Vec<Call> {
        let mut calls = calls(OBJECT).unwrap();
        calls.retain(|call| numbers.contains(&call.number));
        calls
    }

    #[test]
    fn each_program_keeps_its_cpu_and_gives_it_back_once() {
        let mut calls = of_kfuncs(&KEEP_CPU);
        assert!(calls.len() > 20 * KEEP_CPU.len(), "{}", calls.len());
        for number in KEEP_CPU {
            let of = calls.iter().filter(|call| call.number == number).count();
            assert_eq!(of * KEEP_CPU.len(), calls.len(), "{number:#x}");
        }
        calls.retain(|call| call.section.starts_with(RAW_TRACEPOINT));
        assert!(!calls.is_empty());
    }

    #[test]
    fn every_call_is_put_in_where_it_is_wanted_and_nothing_else_is_touched() {
        for keep_cpu in [None, Some(keep_cpu(false)), Some(keep_cpu(true))] {
            for rdonly_cast in [None, Some(70_005)] {
                let kfuncs = Kfuncs {
                    keep_cpu,
                    rdonly_cast,
                };
                assert!(
                    linked(kfuncs).unwrap().bytes() == expected(kfuncs),
                    "{kfuncs:?}"
                );
            }
        }
    }

    fn expected(kfuncs: Kfuncs) -> Vec<u8> {
        let mut expected = OBJECT.to_vec();
        let all = [KEEP_CPU.as_slice(), &[kfunc::RDONLY_CAST]].concat();
        for Call {
            section,
            at,
            number,
        } in of_kfuncs(&all)
        {
            let kept = kfuncs.keep_cpu.is_some_and(|kfuncs| {
                kfuncs.on_tracepoints || !section.starts_with(RAW_TRACEPOINT)
            });
            let (function, is_wanted) = match number {
                kfunc::PREEMPT_DISABLE => (70_001_u32, kept),
                kfunc::PREEMPT_ENABLE => (70_002, kept),
                kfunc::LOCAL_IRQ_SAVE => (70_003, kept),
                kfunc::LOCAL_IRQ_RESTORE => (70_004, kept),
                _ => (70_005, kfuncs.rdonly_cast.is_some()),
            };
            let instruction = &mut expected[at..at + INSTRUCTION_BYTES];
            if is_wanted {
                instruction[1] = 0x20;
                instruction[4..].copy_from_slice(&function.to_ne_bytes());
            } else {
                instruction.copy_from_slice(&[0xb7, 0, 0, 0, 0, 0, 0, 0]);
            }
        }
        expected
    }
}
