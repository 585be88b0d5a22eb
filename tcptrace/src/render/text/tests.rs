//! What a person sees, to the character.

use std::collections::BTreeMap;

use super::*;

fn start() -> Start {
    Start {
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
    let text = written(TERMINAL, &[finding]);
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
    assert!(!written(TERMINAL, &[finding]).contains('\x1b'));
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
         enlarge it with: --buffer-size 64M, or filter\n"
    );
}

#[test]
fn the_summary_says_what_is_missing() {
    let end = |end: End| {
        let mut text = Text::new(Vec::new(), Vec::new(), TERMINAL, 0);
        text.end(&end).unwrap();
        String::from_utf8(text.out).unwrap()
    };
    assert_eq!(
        end(samples::end()),
        "\n12 transitions in 10.000s, 10 of them shown, 7 records LOST: what is above has gaps.\n"
    );
    let mut complete = samples::end();
    complete.summary.lost = 0;
    complete.shown = 12;
    assert_eq!(end(complete), "\n12 transitions in 10.000s, none lost.\n");
}
