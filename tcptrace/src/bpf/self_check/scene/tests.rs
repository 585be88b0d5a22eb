//! The scene itself, on this kernel without any program; and each thing that a record may say otherwise.

use std::{fs, net::Ipv4Addr, num::NonZeroU64};

use tcptrace_model::{Comm, File, Minisocket, Socket as Seen, Task};

use super::*;

const WATCHED: Watched = Watched {
    minisockets: true,
    verdicts: true,
    stamps: true,
};

#[expect(
    clippy::many_single_char_names,
    reason = "the sockets are called so in the scene"
)]
fn played() -> Played {
    let who = |name, cookie| Who { name, cookie };
    let server = "127.0.0.1:4000".parse().unwrap();
    let client = "127.0.0.1:5000".parse().unwrap();
    let names = ["L", "A", "B", "C", "D"];
    let [l, a, b, c, d] = [0, 1, 2, 3, 4].map(|index| who(names[index], index as u64 + 1));
    Played {
        steps: steps([l, a, b, c, d], server, client),
        known: vec![1, 2, 3, 4, 5],
        netns: 10,
        local: server,
        remote: client,
        cookie: 2,
        has_timestamps: true,
        sk: None,
        entered: false,
        ended: false,
    }
}

const TASK: Task = Task {
    pid: 30,
    tid: 30,
    comm: Comm([0; 16]),
};

/// The transition that a step expects.
fn transition(step: &Step) -> Transition {
    Transition {
        ts_ns: 1,
        socket: Seen {
            sk: 7,
            cookie: NonZeroU64::new(step.who.cookie),
            netns: Some(10),
            cgroup_id: None,
            uid: 0,
            local: step.local,
            remote: step.remote,
            reuseaddr: true,
            reuseport: false,
        },
        oldstate: step.from,
        newstate: step.to,
        current: TASK,
        cpu: 0,
        evidence: Some(step.evidence),
    }
}

fn minisocket() -> Minisocket {
    Minisocket {
        tw: 8,
        cookie: NonZeroU64::new(2),
        netns: Some(10),
        local: "127.0.0.1:4000".parse().unwrap(),
        remote: "127.0.0.1:5000".parse().unwrap(),
        reuseaddr: true,
        reuseport: false,
    }
}

fn entered() -> MinisocketEntered {
    MinisocketEntered {
        ts_ns: 1,
        minisocket: minisocket(),
        sk: None,
        phase: Phase::FinWait2,
        timeout_ns: 37_004_000_000,
    }
}

fn ended() -> MinisocketEnded {
    MinisocketEnded {
        ts_ns: 5_000_000,
        minisocket: minisocket(),
        phase: Phase::TimeWait,
        by: EndedBy::Syn,
        current: TASK,
        time_wait_since_ns: Some(3_000_000),
        expires_ns: 60_003_000_000,
    }
}

#[test]
fn records_that_agree_are_accepted_and_none_may_be_missing() {
    let mut played = played();
    for step in played.steps.clone() {
        assert_eq!(played.missing(WATCHED), Some("transitions"));
        let seen = Input::Transition(transition(&step));
        assert_eq!(played.compare(&seen, WATCHED), Ok(()));
    }
    assert_eq!(played.missing(WATCHED), Some("minisocket"));
    let seen = Input::MinisocketEntered(entered());
    assert_eq!(played.compare(&seen, WATCHED), Ok(()));
    let seen = Input::MinisocketEnded(ended());
    assert_eq!(played.compare(&seen, WATCHED), Ok(()));
    assert_eq!(played.missing(WATCHED), None);
}

/// Every field of the evidence is wrong in turn, in each step that tells something of it.
#[test]
fn evidence_that_disagrees_is_named() {
    for (change, name) in [
        ((|seen| seen.error = 99) as fn(&mut Evidence), "sk_err"),
        (|seen| seen.receive_shutdown ^= true, "sk_shutdown"),
        (|seen| seen.send_shutdown ^= true, "sk_shutdown"),
        (|seen| seen.orphan ^= true, "skc_flags"),
        (|seen| seen.file = File::Unknown, "sk_socket"),
        (|seen| seen.linger_zero ^= true, "sk_lingertime"),
        (|seen| seen.no_fin_wait2 ^= true, "linger2"),
    ] {
        for step in played().steps {
            let mut seen = transition(&step);
            seen.evidence.as_mut().map(change);
            let said = played().compare(&Input::Transition(seen), WATCHED);
            assert!(said.unwrap_err().contains(name), "{name}");
        }
    }
}

#[test]
fn a_minisocket_that_disagrees_is_named() {
    for (change, name) in [
        (
            (|seen| seen.phase = Phase::FinWait2) as fn(&mut MinisocketEnded),
            "tw_substate",
        ),
        (|seen| seen.expires_ns = 0, "timer_list.expires"),
        (
            |seen| seen.by = EndedBy::SynOrData,
            "tcp_timewait_state_process",
        ),
        (|seen| seen.time_wait_since_ns = None, "tw_entry_stamp"),
        (|seen| seen.minisocket.cookie = None, "skc_cookie"),
        (|seen| seen.minisocket.netns = None, "skc_net"),
        (|seen| seen.minisocket.reuseaddr = false, "skc_reuse"),
    ] {
        let mut seen = ended();
        change(&mut seen);
        let said = played().compare(&Input::MinisocketEnded(seen), WATCHED);
        assert!(said.unwrap_err().contains(name), "{name}");
    }
    let mut seen = entered();
    seen.timeout_ns = 60_000_000_000;
    let said = played().compare(&Input::MinisocketEntered(seen), WATCHED);
    assert!(said.unwrap_err().contains("37000 ms"));
}

/// No socket of any state is left at the port, not even a TIME_WAIT.
#[test]
fn nothing_is_left_behind() {
    // Without privileges there is no namespace to play it in; the live tests have them.
    let Ok(stage) = NewNamespace::make() else {
        return;
    };
    let mut port = 0;
    let done = play(&stage, Ipv4Addr::LOCALHOST.into(), |_, announced| {
        port = announced;
        Ok(())
    });
    assert_eq!(done.unwrap().local.port(), port);
    let sockets = stage.inside(|| fs::read_to_string("/proc/thread-self/net/tcp"));
    let sockets = sockets.unwrap().unwrap();
    assert!(!sockets.contains(&format!(":{port:04X} ")), "{sockets}");
}
