//! Calls of the kernel's own functions (kfuncs), whose numbers user space puts in before it loads the object. Here
//! is what stands in the object for each: the number of a helper that no kernel has.

/// For `void bpf_preempt_disable(void)`.
pub const PREEMPT_DISABLE: u32 = 0x7463_7001;
/// For `void bpf_preempt_enable(void)`.
pub const PREEMPT_ENABLE: u32 = 0x7463_7002;
/// For `void bpf_local_irq_save(unsigned long *)`.
pub const LOCAL_IRQ_SAVE: u32 = 0x7463_7003;
/// For `void bpf_local_irq_restore(unsigned long *)`.
pub const LOCAL_IRQ_RESTORE: u32 = 0x7463_7004;
/// For `void *bpf_rdonly_cast(const void *, u32)`.
pub const RDONLY_CAST: u32 = 0x7463_7005;
