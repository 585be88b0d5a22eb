//! Owns the kernel's own functions (kfuncs) that the programs call: which this kernel has and lets them call, and
//! what stands for each call in a program: one by the function's id in the kernel's BTF, or nothing.

use std::mem::size_of;

use aya_obj::generated::{
    bpf_cmd::BPF_PROG_LOAD, bpf_func_id::BPF_FUNC_probe_read_kernel,
    bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT,
};
use tcptrace_common::kfunc;

use super::{
    link::{CALL, Instruction},
    offsets::KernelTypes,
};
use crate::host::kernel_version::KernelVersion;

/// `BPF_PSEUDO_KFUNC_CALL` of include/uapi/linux/bpf.h (v6.18), as `src_reg`: the upper half of its byte on
/// little-endian machines.
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

/// The functions of the kernel that the programs call where it lets them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kfuncs {
    pub(super) keep_cpu: Option<KeepCpu>,
    /// By which a program reads memory without a helper: the id of kernel/bpf/helpers.c `bpf_rdonly_cast`, which
    /// takes any address since 6.17.
    pub(super) rdonly_cast: Option<u32>,
}

/// The functions by which a program keeps its CPU, by their ids in the kernel's own BTF: kernel/bpf/helpers.c
/// (v6.18), since 6.14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeepCpu {
    pub(super) preempt_disable: u32,
    pub(super) preempt_enable: u32,
    pub(super) local_irq_save: u32,
    pub(super) local_irq_restore: u32,
    /// Whether a task can lose its CPU around a tracepoint, too: include/linux/tracepoint.h
    /// `__DECLARE_TRACE` disables preemption up to 6.19. Seen on 7.2.
    pub(super) on_tracepoints: bool,
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

    /// Whether the kernel lets programs read its memory without a helper.
    pub(super) fn are_reads_direct(self) -> bool {
        self.rdonly_cast.is_some()
    }

    /// What is to stand for helper `number` in a program that is `on_tracepoint` or not; `None` for what is a helper.
    pub(super) fn link(self, on_tracepoint: bool, number: u32) -> Option<Instruction> {
        let of: fn(KeepCpu) -> u32 = match number {
            kfunc::PREEMPT_DISABLE => |kfuncs| kfuncs.preempt_disable,
            kfunc::PREEMPT_ENABLE => |kfuncs| kfuncs.preempt_enable,
            kfunc::LOCAL_IRQ_SAVE => |kfuncs| kfuncs.local_irq_save,
            kfunc::LOCAL_IRQ_RESTORE => |kfuncs| kfuncs.local_irq_restore,
            kfunc::RDONLY_CAST => return Some(self.rdonly_cast.map_or(NOTHING, call_of)),
            _ => return None,
        };
        let wanted = (self.keep_cpu).filter(|kfuncs| kfuncs.on_tracepoints || !on_tracepoint);
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

fn call_of(function: u32) -> Instruction {
    let [a, b, c, d] = function.to_ne_bytes();
    [CALL, PSEUDO_KFUNC_CALL, 0, 0, a, b, c, d]
}
