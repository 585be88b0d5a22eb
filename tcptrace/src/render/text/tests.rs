//! What a person sees, to the character.

mod failures;
mod ladder;
mod story;
mod summary;

use std::{collections::BTreeMap, slice::from_ref};

use tcptrace_model::{Certainty, Phase, Role, TcpState};

use super::*;

fn start() -> Start {
    Start {
        version: "0.1.0".to_owned(),
        ts_ns: 5_000_000_000,
        kernel: "6.12.1".to_owned(),
        hz: Some(250),
        backends: BTreeMap::new(),
        degraded: Vec::new(),
        netns: None,
        sysctls: BTreeMap::new(),
        clock_offset_ns: 0,
    }
}

/// What is written to the output for these findings, with the header.
fn written(layout: Layout, findings: &[Finding]) -> String {
    let mut text = Text::new(Vec::new(), Vec::new(), layout, 0);
    text.start(&start()).unwrap();
    for finding in findings {
        text.finding(finding).unwrap();
    }
    assert!(text.notices.is_empty());
    String::from_utf8(text.out).unwrap()
}

const TERMINAL: Layout = Layout {
    width: Some(80),
    colour: false,
    no_header: false,
    time: false,
    timestamp: false,
    wide: false,
    ladder: false,
};

#[test]
fn the_longest_ipv4_line_fits_80_columns() {
    let longest = samples::transition(
        "255.255.255.255:65535",
        "255.255.255.255:65535",
        Some(999_999_999),
    );
    let text = written(TERMINAL, &[longest]);
    assert_eq!(
        text,
        " IN-STATE OLDSTATE    -> NEWSTATE    LOCAL                 REMOTE\n\
         999.999ms ESTABLISHED -> FIN_WAIT1   255.255.255.255:65535 255.255.255.255:65535\n"
    );
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
}

#[test]
fn what_is_unknown_is_a_dash() {
    let text = written(
        TERMINAL,
        &[samples::transition(
            "127.0.0.1:8000",
            "127.0.0.1:40000",
            None,
        )],
    );
    assert_eq!(
        text.lines().nth(1).unwrap(),
        "        - ESTABLISHED -> FIN_WAIT1   127.0.0.1:8000        127.0.0.1:40000"
    );
}

#[test]
fn the_longest_ipv6_addresses_stand_below_the_states_on_a_terminal_only() {
    let finding = samples::transition(
        "[2001:db8:1111:2222:3333:4444:5555:6666]:8000",
        "[2001:db8:1111:2222:3333:4444:5555:7777]:40000",
        Some(1_000),
    );
    let text = written(TERMINAL, from_ref(&finding));
    assert_eq!(
        text.lines().skip(1).collect::<Vec<_>>(),
        [
            "  1.000us ESTABLISHED -> FIN_WAIT1",
            "                                  [2001:db8:1111:2222:3333:4444:5555:6666]:8000",
            "                                  [2001:db8:1111:2222:3333:4444:5555:7777]:40000",
        ]
    );
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    let piped = written(
        Layout {
            width: None,
            ..TERMINAL
        },
        &[finding],
    );
    assert_eq!(piped.lines().count(), 2);
}

#[test]
fn ipv6_addresses_that_do_not_fit_beside_each_other_stand_one_below_the_other() {
    let finding = samples::transition(
        "[2001:db8:1111:2222::1]:8000",
        "[2001:db8:1111:2222::2]:40000",
        Some(1_000),
    );
    let text = written(TERMINAL, &[finding]);
    assert_eq!(
        text.lines().skip(1).collect::<Vec<_>>(),
        [
            "  1.000us ESTABLISHED -> FIN_WAIT1   [2001:db8:1111:2222::1]:8000",
            "                                     [2001:db8:1111:2222::2]:40000",
        ]
    );
}

#[test]
fn short_ipv6_addresses_stay_on_one_line() {
    let finding = samples::transition("[::1]:8000", "[::1]:40000", Some(1_000));
    assert_eq!(
        written(TERMINAL, &[finding]).lines().nth(1).unwrap(),
        "  1.000us ESTABLISHED -> FIN_WAIT1   [::1]:8000            [::1]:40000"
    );
}

#[test]
fn times_stand_before_the_line() {
    let layout = Layout {
        timestamp: true,
        width: None,
        ..TERMINAL
    };
    let finding = samples::transition("127.0.0.1:8000", "127.0.0.1:40000", Some(1_000));
    let text = written(layout, &[finding]);
    assert!(text.starts_with("    TIME(s)  IN-STATE OLDSTATE"), "{text}");
    assert!(
        text.lines()
            .nth(1)
            .unwrap()
            .starts_with("   0.067000   1.000us ESTABLISHED"),
        "{text}"
    );
}

#[test]
fn wide_tells_everything_on_one_line_in_columns() {
    let layout = Layout {
        wide: true,
        ..TERMINAL
    };
    let finding = samples::transition("127.0.0.1:8000", "127.0.0.1:40000", Some(1_000));
    let text = written(layout, &[finding]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    for (title, value) in [
        ("C-COMM", "nginx"),
        ("OPT", "R"),
        ("SKADDR", "0xffff888100001000"),
        ("COOKIE", "77"),
    ] {
        let column = lines[0].find(title).unwrap();
        assert!(lines[1][column..].starts_with(value), "{title}\n{text}");
    }
    assert!(lines[1].contains(" 4026531840 "), "{text}");
}

#[test]
fn colour_only_where_asked_for() {
    let finding = samples::transition("127.0.0.1:8000", "127.0.0.1:40000", Some(1_000));
    assert!(!written(TERMINAL, from_ref(&finding)).contains('\x1b'));
    let coloured = written(
        Layout {
            colour: true,
            ..TERMINAL
        },
        &[finding],
    );
    assert!(
        coloured.contains("\x1b[33mFIN_WAIT1\x1b[0m"),
        "{coloured:?}"
    );
}

#[test]
fn no_header_means_none() {
    assert_eq!(
        written(
            Layout {
                no_header: true,
                ..TERMINAL
            },
            &[]
        ),
        ""
    );
}

#[test]
fn losses_go_to_the_notices_in_a_sentence() {
    let mut text = Text::new(Vec::new(), Vec::new(), TERMINAL, 0);
    text.finding(&samples::lost(1)).unwrap();
    assert!(text.out.is_empty());
    assert_eq!(
        String::from_utf8(text.notices).unwrap(),
        "tcptrace: warning: 1 transition record lost on CPU 1: the buffer was full; \
         enlarge it with: --buffer-size 256M, or filter\n"
    );
}

/// The lines of these findings, without the header.
fn lines(layout: Layout, findings: &[Finding]) -> Vec<String> {
    written(layout, findings)
        .lines()
        .skip(1)
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_new_state_is_what_takes_the_place_of_the_socket() {
    assert_eq!(
        lines(
            TERMINAL,
            &[
                samples::into_minisocket(Phase::TimeWait),
                samples::into_minisocket(Phase::FinWait2),
            ]
        ),
        [
            "  1.170ms FIN_WAIT2   -> TIME_WAIT   127.0.0.1:40000       127.0.0.1:8000",
            "  1.170ms FIN_WAIT2   -> FIN_WAIT2*  127.0.0.1:40000       127.0.0.1:8000",
        ]
    );
}

fn time_wait_lines(layout: Layout, found: TimeWait) -> Vec<String> {
    lines(layout, &[Finding::TimeWait(Box::new(found))])
}

#[test]
fn the_end_of_a_time_wait_is_one_line_where_it_fits() {
    let expired = samples::time_wait(TimeWaitEnd::Expired);
    assert_eq!(
        time_wait_lines(TERMINAL, expired),
        ["  60.012s TIME_WAIT   -> CLOSE       127.0.0.1:40000 127.0.0.1:8000 expired"]
    );
    let pipe = Layout {
        width: None,
        ..TERMINAL
    };
    assert_eq!(
        time_wait_lines(pipe, expired),
        [
            "  60.012s TIME_WAIT   -> CLOSE       127.0.0.1:40000       127.0.0.1:8000        expired"
        ]
    );
}

#[test]
fn why_a_time_wait_ended_stands_below_it_where_it_does_not_fit() {
    let reused = TimeWait {
        time_wait_ns: Some(2_100_000_000),
        rearmed: 2,
        rearmed_at_least: true,
        by: Some(samples::process(123, "curl")),
        ..samples::time_wait(TimeWaitEnd::ReusedByConnect)
    };
    assert_eq!(
        time_wait_lines(TERMINAL, reused),
        [
            "   2.100s TIME_WAIT   -> CLOSE       127.0.0.1:40000       127.0.0.1:8000",
            "          reused by connect() of curl[123], timer restarted at least 2 times",
        ]
    );
}

#[test]
fn an_inferred_duration_has_a_tilde_and_a_long_wait_before_it_is_told() {
    let inferred = TimeWait {
        fin_wait2_ns: Some(3_200_000_000),
        certainty: Certainty::Inferred,
        doubts: samples::doubts(&[Doubt::DateFromTimer]),
        ..samples::time_wait(TimeWaitEnd::Expired)
    };
    assert_eq!(
        time_wait_lines(TERMINAL, inferred),
        [
            " ~60.012s TIME_WAIT   -> CLOSE       127.0.0.1:40000       127.0.0.1:8000",
            "          expired, after 3.20s in FIN_WAIT2*",
        ]
    );
    let shortest_that_is_too_long = TimeWait {
        time_wait_ns: Some(100_000_000),
        ..inferred
    };
    assert!(time_wait_lines(TERMINAL, shortest_that_is_too_long)[0].starts_with("   ~100ms TIME"));
}

#[test]
fn an_end_that_is_not_shown_is_said_to_be_unknown() {
    let found = TimeWait {
        certainty: Certainty::Unknown,
        doubts: samples::doubts(&[Doubt::EndNotShown, Doubt::RecordsLost]),
        ..samples::time_wait(TimeWaitEnd::Unknown)
    };
    assert_eq!(
        time_wait_lines(TERMINAL, found)[1],
        "          ended, why is not known (records were lost)"
    );
}

#[test]
fn a_wait_for_a_fin_that_never_came_says_so() {
    let orphan = TimeWait {
        last_phase: Phase::FinWait2,
        fin_wait2_ns: Some(60_100_000_000),
        time_wait_ns: Some(0),
        ..samples::time_wait(TimeWaitEnd::Expired)
    };
    assert_eq!(
        time_wait_lines(TERMINAL, orphan),
        [
            "  60.100s FIN_WAIT2*  -> CLOSE       127.0.0.1:40000       127.0.0.1:8000",
            "          expired, the peer's FIN has not come",
        ]
    );
}

#[test]
fn a_time_wait_that_never_began_asks_for_attention() {
    assert_eq!(
        time_wait_lines(TERMINAL, samples::time_wait(TimeWaitEnd::NeverEntered)),
        [
            "! 127.0.0.1:40000 127.0.0.1:8000  no TIME_WAIT (owner: curl[812]):",
            "  tcp_max_tw_buckets of them were in use, or there was no memory.",
        ]
    );
}

#[test]
fn a_time_wait_that_came_with_a_transition_has_no_second_line_unless_wide() {
    let entered = samples::time_wait_entered();
    let finding = |found| Finding::TimeWaitEntered(Box::new(found));
    assert!(lines(TERMINAL, &[finding(entered)]).is_empty());
    let older = TimeWaitEntered {
        doubts: samples::doubts(&[Doubt::BeforeTrace]),
        ..entered
    };
    assert_eq!(
        lines(TERMINAL, &[finding(older)]),
        [
            "        - -           -> TIME_WAIT   127.0.0.1:40000       127.0.0.1:8000",
            "          timer 60.0s (older than the trace)",
        ]
    );
    let wide = Layout {
        wide: true,
        ..TERMINAL
    };
    let line = &lines(wide, &[finding(entered)])[0];
    assert!(line.contains(" 0xffff888100002000 77 "), "{line}");
    assert!(line.ends_with(" timer 60.0s"), "{line}");
}

#[test]
fn a_stuck_connection_asks_for_attention_and_says_what_is_missing() {
    let stuck = |state, role| {
        let found = samples::stuck(state, role);
        lines(TERMINAL, &[Finding::Stuck(Box::new(found))])
    };
    assert_eq!(
        stuck(TcpState::CloseWait, Role::Server),
        [
            "! 127.0.0.1:40000 -> 127.0.0.1:8000  server nginx[77] has been in CLOSE_WAIT for",
            "  61.0s: the peer's FIN has come, the application here has not closed.",
        ]
    );
    assert_eq!(
        stuck(TcpState::FinWait2, Role::Unknown),
        [
            "! 127.0.0.1:40000 -- 127.0.0.1:8000  127.0.0.1:40000 curl[812] has been in",
            "  FIN_WAIT2 for 61.0s: the peer has acknowledged the FIN, its own FIN has not",
            "  come.",
        ]
    );
}

#[test]
fn one_that_is_older_than_the_trace_is_stuck_for_at_least_so_long() {
    let found = Stuck {
        doubts: samples::doubts(&[Doubt::BeforeTrace]),
        ..samples::stuck(TcpState::LastAck, Role::Client)
    };
    assert_eq!(
        lines(TERMINAL, &[Finding::Stuck(Box::new(found))]),
        [
            "! 127.0.0.1:40000 -> 127.0.0.1:8000  client curl[812] has been in LAST_ACK for",
            "  at least 61.0s: the peer has not acknowledged the last FIN (older than the",
            "  trace).",
        ]
    );
}
