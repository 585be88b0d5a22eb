use std::collections::BTreeSet;

use tcptrace_common::{CallOffsets, kfunc};

use super::*;
use crate::bpf::kfuncs::KeepCpu;

const KEEP_CPU: [u32; 4] = [
    kfunc::PREEMPT_DISABLE,
    kfunc::LOCAL_IRQ_SAVE,
    kfunc::PREEMPT_ENABLE,
    kfunc::LOCAL_IRQ_RESTORE,
];

const RDONLY_CAST: u32 = 70_005;

/// Those of a kernel that lets programs read by themselves.
const READING: Kfuncs = Kfuncs {
    keep_cpu: None,
    rdonly_cast: Some(RDONLY_CAST),
};

fn keep_cpu(on_tracepoints: bool) -> KeepCpu {
    KeepCpu {
        preempt_disable: 70_001,
        preempt_enable: 70_002,
        local_irq_save: 70_003,
        local_irq_restore: 70_004,
        on_tracepoints,
    }
}

/// One where each word is another, that fits into an instruction.
fn config() -> Config {
    let mut words: Told = told(&Config::UNSET);
    for (word, value) in words.iter_mut().zip((1000..).step_by(7)) {
        *word = value;
    }
    // SAFETY: as for `told`.
    unsafe { mem::transmute::<Told, Config>(words) }
}

fn is_kfunc(number: u32) -> bool {
    KEEP_CPU.contains(&number) || number == kfunc::RDONLY_CAST
}

/// How often each of these is called in the object.
fn calls_of(number: u32) -> usize {
    let places = places(OBJECT).unwrap();
    (places.iter())
        .filter(|place| place.what == What::Call(number))
        .count()
}

#[test]
fn each_program_keeps_its_cpu_and_gives_it_back_once() {
    let [disable, others @ ..] = KEEP_CPU.map(calls_of);
    assert!(disable > 20, "{disable}");
    assert_eq!(others, [disable; 3]);
    assert!(
        places(OBJECT)
            .unwrap()
            .iter()
            .any(|place| place.on_tracepoint && place.what == What::Call(kfunc::PREEMPT_DISABLE))
    );
}

#[test]
fn everything_is_put_in_where_it_is_wanted_and_nothing_else_is_touched() {
    for keep_cpu in [None, Some(keep_cpu(false)), Some(keep_cpu(true))] {
        for rdonly_cast in [None, Some(RDONLY_CAST)] {
            let kfuncs = Kfuncs {
                keep_cpu,
                rdonly_cast,
            };
            let linked = linked(kfuncs, &config()).unwrap();
            assert!(
                linked.bytes() == expected(keep_cpu, rdonly_cast),
                "{kfuncs:?}"
            );
        }
    }
}

fn expected(keep_cpu: Option<KeepCpu>, rdonly_cast: Option<u32>) -> Vec<u8> {
    let told = told(&Config {
        direct_reads: rdonly_cast.is_some().into(),
        ..config()
    });
    let mut expected = OBJECT.to_vec();
    for Place {
        on_tracepoint,
        at,
        what,
    } in places(OBJECT).unwrap()
    {
        let instruction = &mut expected[at..at + 2 * INSTRUCTION_BYTES];
        match what {
            What::Call(number) if is_kfunc(number) => {
                let kept = keep_cpu.is_some_and(|kfuncs| kfuncs.on_tracepoints || !on_tracepoint);
                let (function, is_wanted) = match number {
                    kfunc::PREEMPT_DISABLE => (70_001_u32, kept),
                    kfunc::PREEMPT_ENABLE => (70_002, kept),
                    kfunc::LOCAL_IRQ_SAVE => (70_003, kept),
                    kfunc::LOCAL_IRQ_RESTORE => (70_004, kept),
                    _ => (RDONLY_CAST, rdonly_cast.is_some()),
                };
                if is_wanted {
                    instruction[1] = 0x20;
                    instruction[4..8].copy_from_slice(&function.to_ne_bytes());
                } else {
                    instruction[..8].copy_from_slice(&[0xb7, 0, 0, 0, 0, 0, 0, 0]);
                }
            }
            What::Call(_) => {}
            What::Value { at, bytes } => {
                instruction[4..8].copy_from_slice(&told[at / 4].to_ne_bytes());
                let high = if bytes == 8 { told[at / 4 + 1] } else { 0 };
                instruction[12..].copy_from_slice(&high.to_ne_bytes());
            }
            What::Field(Field { at, further }) => {
                let offset = u16::try_from(told[at / 4] + further).unwrap();
                instruction[2..4].copy_from_slice(&offset.to_ne_bytes());
            }
        }
    }
    expected
}

#[test]
fn nothing_that_stands_for_something_else_is_left() {
    let linked = linked(READING, &config()).unwrap();
    let left = places(linked.bytes()).unwrap();
    let left: Vec<_> = (left.iter())
        .filter(|place| match place.what {
            What::Call(number) => is_kfunc(number),
            What::Value { .. } | What::Field(_) => true,
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_programs_ask_for_what_there_is() {
    let mut fields = BTreeSet::new();
    let mut values = BTreeSet::new();
    for place in places(OBJECT).unwrap() {
        match place.what {
            What::Call(_) => {}
            What::Value { at, bytes } => {
                assert!(bytes == 4 || bytes == 8, "{place:?}");
                values.insert(at);
            }
            What::Field(field) => {
                fields.insert(field.at);
            }
        }
    }
    let offset_of_call = |at: usize| mem::offset_of!(Config, calls) + at;
    for needed in [
        mem::offset_of!(Config, offsets.skc_cookie),
        mem::offset_of!(Config, offsets.task_comm),
        offset_of_call(mem::offset_of!(CallOffsets, fdt_fd)),
    ] {
        assert!(fields.contains(&needed), "{needed}: {fields:?}");
    }
    for needed in [
        mem::offset_of!(Config, filters),
        mem::offset_of!(Config, cgroup_id),
        mem::offset_of!(Config, direct_reads),
        offset_of_call(mem::offset_of!(CallOffsets, cred_net_bind) + 4),
    ] {
        assert!(values.contains(&needed), "{needed}: {values:?}");
    }
}

#[test]
fn programs_read_by_themselves_only_where_every_field_is_near_enough() {
    let direct_reads = |config: &Config| {
        let linked = linked(READING, config).unwrap();
        let place = (places(OBJECT).unwrap().into_iter())
            .find(|place| {
                place.what
                    == What::Value {
                        at: mem::offset_of!(Config, direct_reads),
                        bytes: 4,
                    }
            })
            .unwrap();
        linked.bytes()[place.at + 4]
    };
    let mut config = config();
    assert_eq!(direct_reads(&config), 1);
    config.offsets.task_comm = 32_767 - 12;
    assert_eq!(direct_reads(&config), 1);
    config.offsets.task_comm += 1;
    assert_eq!(direct_reads(&config), 0);
    config.offsets.task_comm = 1000;
    config.offsets.tw_entry_stamp = Offsets::ABSENT;
    assert_eq!(direct_reads(&config), 1);
}
