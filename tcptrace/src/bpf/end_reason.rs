//! Owns what a kernel stack tells of why a minisocket ended before its time.

use tcptrace_common::TimerCode;
use tcptrace_model::EndedBy;

use crate::host::symbols::Symbols;

/// The function that every early end goes through: net/ipv4/inet_timewait_sock.c (v6.18). It stops the
/// timer, and that is when the stack is taken.
const END: &str = "inet_twsk_deschedule_put";

/// What the timer of a minisocket calls: net/ipv4/inet_timewait_sock.c (v6.18).
const TIMER_HANDLER: &str = "tw_timer_handler";

/// What ends all minisockets of a network namespace: net/ipv4/inet_timewait_sock.c (v6.18).
const PURGE: &str = "inet_twsk_purge";

/// The functions that this and [`timer_code`] know: what to ask [`Symbols::read`] for.
pub const FUNCTIONS: [&str; 16] = [
    TIMER_HANDLER,
    END,
    PURGE,
    "tcp_twsk_purge",
    "tcp_abort",
    "tcp_diag_destroy",
    "tcp_timewait_state_process",
    "__inet_check_established",
    "__inet6_check_established",
    "__inet_hash_connect",
    "inet_hash_connect",
    "inet6_hash_connect",
    "tcp_v4_connect",
    "tcp_v6_connect",
    "tcp_v4_rcv",
    "tcp_v6_rcv",
];

/// How the timers of minisockets are known from others, and their early end from re-arming.
///
/// # Errors
/// One sentence: the function that this kernel does not have.
pub fn timer_code(symbols: &Symbols) -> Result<TimerCode, String> {
    let missing = |name: &str| format!("/proc/kallsyms has no function {name}");
    let handler = symbols
        .address_of(TIMER_HANDLER)
        .ok_or_else(|| missing(TIMER_HANDLER))?;
    let range = |name: &str| {
        symbols
            .of(name)
            .find(|function| !function.clone)
            .map(|function| [function.start, function.end])
            .ok_or_else(|| missing(name))
    };
    Ok(TimerCode {
        handler,
        deschedule: range(END)?,
        purge: range(PURGE)?,
    })
}

/// Why a minisocket ended, by the kernel stack at the moment when its timer was stopped: return
/// addresses, the innermost call first. [`EndedBy::Unknown`] when the stack does not show it.
///
/// `inet_twsk_deschedule_put` itself need not be on it: a program on the entry of that function is
/// called in its stead.
///
/// What counts is the first function known here that called it. Further out there may be others that
/// have nothing to do with it: on loopback, a connect() delivers its own SYN.
#[must_use]
pub fn ended_by(stack: &[u64], symbols: &Symbols) -> EndedBy {
    let names = stack
        .iter()
        // Where a call never returns, what it would return to is the next function.
        .map(|address| symbols.name_of(address.wrapping_sub(1)));
    let inner = names.clone().position(|name| name == Some(END));
    names
        .skip(inner.unwrap_or(0))
        .flatten()
        .find_map(caller)
        .unwrap_or(EndedBy::Unknown)
}

/// Why it ended, if this function is one of those that call [`END`] (or that call those, where the
/// compiler has left no trace of them). All at v6.18.
fn caller(name: &str) -> Option<EndedBy> {
    match name {
        // net/ipv4/inet_timewait_sock.c `inet_twsk_purge`, from net/ipv4/tcp_minisocks.c
        // `tcp_twsk_purge`, from net/ipv4/tcp_ipv4.c `tcp_sk_exit_batch`.
        "inet_twsk_purge" | "tcp_twsk_purge" => Some(EndedBy::NetnsExit),
        // net/ipv4/tcp.c `tcp_abort`, from net/ipv4/tcp_diag.c `tcp_diag_destroy` by way of
        // net/core/sock_diag.c `sock_diag_destroy`.
        "tcp_abort" | "tcp_diag_destroy" => Some(EndedBy::Destroyed),
        // net/ipv4/tcp_minisocks.c `tcp_timewait_state_process`, at its label `kill`, which only a RST
        // leads to.
        "tcp_timewait_state_process" => Some(EndedBy::Reset),
        // net/ipv4/inet_hashtables.c `__inet_check_established` for a bound socket,
        // `__inet_hash_connect` for one whose port it chooses; net/ipv6/inet6_hashtables.c
        // `__inet6_check_established`.
        "__inet_check_established"
        | "__inet6_check_established"
        | "__inet_hash_connect"
        | "inet_hash_connect"
        | "inet6_hash_connect"
        | "tcp_v4_connect"
        | "tcp_v6_connect" => Some(EndedBy::Connect),
        // net/ipv4/tcp_ipv4.c `tcp_v4_rcv`, net/ipv6/tcp_ipv6.c `tcp_v6_rcv`: on TCP_TW_SYN with a
        // listener, and on TCP_TW_RST.
        "tcp_v4_rcv" | "tcp_v6_rcv" => Some(EndedBy::SynOrData),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// A kernel in which every function that is known here is 0x100 bytes long, in their order.
    fn kernel(without: &[&str]) -> Symbols {
        let mut text = String::new();
        for (number, name) in FUNCTIONS.iter().enumerate() {
            let name = if without.contains(name) { "none" } else { name };
            writeln!(text, "{:016x} T {name}", start(number)).unwrap();
        }
        writeln!(text, "{:016x} T _etext", start(FUNCTIONS.len())).unwrap();
        Symbols::of_text(&text, &FUNCTIONS)
    }

    const fn start(number: usize) -> u64 {
        0xffff_ffff_8100_0000 + 0x100 * number as u64
    }

    /// A return address in the middle of a function; of one that is not known for a name that is not.
    fn within(name: &str) -> u64 {
        FUNCTIONS
            .iter()
            .position(|known| *known == name)
            .map_or(0xffff_ffff_8000_0042, |number| start(number) + 0x42)
    }

    fn reason(symbols: &Symbols, stack: &[&str]) -> EndedBy {
        let stack: Vec<u64> = stack.iter().map(|name| within(name)).collect();
        ended_by(&stack, symbols)
    }

    #[test]
    fn every_caller_tells_its_reason() {
        let kernel = kernel(&[]);
        for (stack, expected) in [
            (
                &["inet_twsk_purge", "tcp_twsk_purge"][..],
                EndedBy::NetnsExit,
            ),
            (
                &["tcp_abort", "sock_diag_destroy", "tcp_diag_destroy"],
                EndedBy::Destroyed,
            ),
            (
                &["tcp_timewait_state_process", "tcp_v4_rcv"],
                EndedBy::Reset,
            ),
            (
                &["tcp_timewait_state_process", "tcp_v6_rcv"],
                EndedBy::Reset,
            ),
            (
                &[
                    "__inet_check_established",
                    "__inet_hash_connect",
                    "tcp_v4_connect",
                ],
                EndedBy::Connect,
            ),
            (
                &[
                    "__inet6_check_established",
                    "inet6_hash_connect",
                    "tcp_v6_connect",
                ],
                EndedBy::Connect,
            ),
            (
                &["__inet_hash_connect", "inet_hash_connect"],
                EndedBy::Connect,
            ),
            (&["tcp_v4_rcv", "ip_local_deliver"], EndedBy::SynOrData),
            (&["tcp_v6_rcv", "ip6_input"], EndedBy::SynOrData),
            (&["somebody", "else"], EndedBy::Unknown),
            (&[], EndedBy::Unknown),
        ] {
            let whole = [&["timer_shutdown_sync", END], stack].concat();
            assert_eq!(reason(&kernel, &whole), expected, "{whole:?}");
        }
    }

    #[test]
    fn the_nearest_caller_counts() {
        // On loopback: connect() sends a SYN, which meets a minisocket of the peer's port.
        let stack = [END, "tcp_v4_rcv", "process_backlog", "tcp_v4_connect"];
        assert_eq!(reason(&kernel(&[]), &stack), EndedBy::SynOrData);
        // The stack is taken in a packet that interrupted a connect().
        let stack = ["tcp_v4_rcv", END, "tcp_abort", "tcp_v4_connect"];
        assert_eq!(reason(&kernel(&[]), &stack), EndedBy::Destroyed);
    }

    #[test]
    fn the_callers_of_an_inlined_function_stand_for_it() {
        for (without, stack, expected) in [
            (
                "inet_twsk_purge",
                [END, "tcp_twsk_purge", "cleanup_net"],
                EndedBy::NetnsExit,
            ),
            (
                "tcp_abort",
                [END, "sock_diag_destroy", "tcp_diag_destroy"],
                EndedBy::Destroyed,
            ),
            (
                "__inet_check_established",
                [END, "__inet_hash_connect", "tcp_v4_connect"],
                EndedBy::Connect,
            ),
            (
                "inet6_hash_connect",
                [END, "tcp_v6_connect", "inet_stream_connect"],
                EndedBy::Connect,
            ),
        ] {
            assert_eq!(reason(&kernel(&[without]), &stack), expected, "{without}");
        }
    }

    #[test]
    fn a_stack_without_a_known_caller_gives_no_reason() {
        let stack = ["__mod_timer", "somebody", "else"];
        assert_eq!(reason(&kernel(&[]), &stack), EndedBy::Unknown);
        assert_eq!(ended_by(&[], &kernel(&[])), EndedBy::Unknown);
        assert_eq!(ended_by(&[0, 1, u64::MAX], &kernel(&[])), EndedBy::Unknown);
    }

    #[test]
    fn the_end_itself_need_not_be_on_the_stack() {
        let stack = ["trampoline", "tcp_v4_rcv", "tcp_v4_connect"];
        assert_eq!(reason(&kernel(&[]), &stack), EndedBy::SynOrData);
    }

    #[test]
    fn a_call_at_the_very_end_of_a_function_belongs_to_it() {
        let number = FUNCTIONS
            .iter()
            .position(|name| *name == "tcp_abort")
            .unwrap();
        let past_the_end = start(number + 1);
        let stack = [within(END), past_the_end];
        assert_eq!(ended_by(&stack, &kernel(&[])), EndedBy::Destroyed);
    }

    #[test]
    fn split_off_parts_and_clones_count_as_their_function() {
        let text = "\
ffffffff81000000 T inet_twsk_deschedule_put
ffffffff81000100 t inet_twsk_purge.part.0
ffffffff81000200 t tcp_abort.cold
ffffffff81000300 T _etext
";
        let symbols = Symbols::of_text(text, &FUNCTIONS);
        let stack = |second| [0xffff_ffff_8100_0010, second];
        let purge = ended_by(&stack(0xffff_ffff_8100_0110), &symbols);
        assert_eq!(purge, EndedBy::NetnsExit);
        let abort = ended_by(&stack(0xffff_ffff_8100_0210), &symbols);
        assert_eq!(abort, EndedBy::Destroyed);
    }

    #[test]
    fn every_function_that_is_asked_for_tells_something() {
        for name in FUNCTIONS {
            let is_no_caller = [TIMER_HANDLER, END].contains(&name);
            assert_eq!(caller(name).is_none(), is_no_caller, "{name}");
        }
    }
}
