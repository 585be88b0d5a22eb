//! The summary, to the character.

use tcptrace_model::Connection;

use super::*;

fn summary(start: &Start, findings: &[Finding], end: &End) -> String {
    let mut text = Text::new(Vec::new(), Vec::new(), TERMINAL, 0);
    text.start(start).unwrap();
    for finding in findings {
        text.finding(finding).unwrap();
    }
    text.out.clear();
    text.end(end).unwrap();
    String::from_utf8(text.out).unwrap()
}

#[test]
fn it_says_what_is_missing() {
    assert_eq!(
        summary(&start(), &[], &samples::end()),
        "\n12 transitions in 10.000s, 10 of them shown, 7 records LOST: what is above has gaps.\n"
    );
    let mut complete = samples::end();
    complete.summary.lost = 0;
    complete.shown = 12;
    assert_eq!(
        summary(&start(), &[], &complete),
        "\n12 transitions in 10.000s, none lost.\n"
    );
}

#[test]
fn it_counts_how_and_why_and_how_long() {
    let mut start = start();
    for (name, value) in [
        ("tcp_fin_timeout", "60"),
        ("tcp_max_tw_buckets", "8192"),
        ("tcp_tw_reuse", "2"),
        ("ip_local_port_range", "32768 60999"),
        ("ip_nonlocal_bind", "0"),
    ] {
        start
            .sysctls
            .insert(format!("net.ipv4.{name}"), value.to_owned());
    }
    start
        .degraded
        .push("a thing that this kernel keeps to itself".to_owned());
    let older = Connection {
        doubts: samples::doubts(&[Doubt::BeforeTrace]),
        ..samples::client_first()
    };
    let stamped = |rearmed_at_least| TimeWait {
        rearmed: 1,
        rearmed_at_least,
        doubts: samples::doubts(&[Doubt::DateFromStamp]),
        ..samples::time_wait(TimeWaitEnd::Expired)
    };
    let findings = [
        Finding::Connection(Box::new(older)),
        Finding::TimeWait(Box::new(stamped(true))),
        Finding::TimeWait(Box::new(stamped(false))),
    ];
    assert_eq!(
        summary(&start, &findings, &samples::full_end()),
        "
1234 transitions in 300.000s, none lost.

310 ends of connections ended:
     COUNT  HOW                          COUNT  WHY
       141  closed first by the peer       250  close()
       140  closed first by this end        31  exit of the process
        28  reset by the peer               28  reset by the peer
         1  timed out                        1  retransmissions

TIME_WAIT, FIN_WAIT2* included: 140 entered, 123 ended, 2 never began
       120  expired
         3  reused by connect()
         2  never began: tcp_max_tw_buckets, or no memory
         2  had the timer restarted (not every restart can be seen)

How long TIME_WAIT lasted where it expired:
       118  min 60.010s  median 60.911s  p90 61.800s  p99 62.031s  max 62.048s
        20    60.000s |##############
        61    60.500s |########################################
         0    61.000s |
        36    61.500s |########################
         1    62.000s |#

How long FIN_WAIT2* lasted where the peer's FIN did not come:
         2  min 60.100s  median 60.100s  p90 61.100s  p99 61.100s  max 61.100s

42 calls failed:
     COUNT  CALL     ERROR          WHY
        30  connect  ECONNREFUSED   refused by the peer
        12  bind     EADDRINUSE     port held

Now: 4 connections open, 17 minisockets waiting (TIME_WAIT or FIN_WAIT2*).
Told to be stuck: 1 connection.
FIN_WAIT2*: a minisocket in place of the socket, to wait for the peer's FIN.
With doubts: 1 end of a connection (1 older than the trace).
With doubts: 2 TIME_WAITs (2 dated by the kernel's stamp, in whole ms).
Sysctls at the start: tcp_fin_timeout=60, tcp_max_tw_buckets=8192,
  tcp_tw_reuse=2, ip_local_port_range=32768-60999
Not seen here: a thing that this kernel keeps to itself
"
    );
}

#[test]
fn without_a_time_wait_it_says_nothing_of_them() {
    let mut end = samples::full_end();
    let summary_of_end = &mut end.summary;
    summary_of_end.time_waits_entered = 0;
    summary_of_end.time_wait_ends.clear();
    summary_of_end.time_wait = None;
    summary_of_end.fin_wait2 = None;
    summary_of_end.waiting = 0;
    summary_of_end.stuck = 0;
    summary_of_end.open = 0;
    summary_of_end.calls_failed.clear();
    let text = summary(&start(), &[], &end);
    assert!(
        !text.contains("TIME_WAIT") && !text.contains("FIN_WAIT2"),
        "{text}"
    );
    assert!(text.ends_with("retransmissions\n"), "{text}");
}

#[test]
fn one_range_alone_is_no_histogram() {
    let mut end = samples::full_end();
    if let Some(durations) = &mut end.summary.time_wait {
        durations.histogram.truncate(1);
    }
    assert!(!summary(&start(), &[], &end).contains('#'));
}
