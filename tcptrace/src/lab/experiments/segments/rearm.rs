//! K24: what sets the timer of TIME_WAIT anew.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{
    actor::Options,
    experiment::Experiment,
    experiments::scripted::{Scripted, Timestamps, ack, fin},
    reading::Source,
    stage::Stage,
    value::Expected,
    wire::{Flags, Odd, Version},
};

/// How long the TIME_WAITs have lasted when something comes.
const LATER: Duration = Duration::from_secs(3);

pub(super) const K24: Experiment = Experiment {
    id: "K24",
    name: "timer-set-anew",
    claims: &["K24"],
    title: "What sets the timer of TIME_WAIT to 60 s again",
    says: "A FIN or ACK that comes again in TIME_WAIT sets its timer to 60 s again; a SYN that is refused does \
           not.",
    why: "An ACK or FIN of the old connection shows that its peer still sends, so what TIME_WAIT waits for \
          begins anew (RFC 9293 3.10.7.4: restart the 2 MSL timeout): net/ipv4/tcp_minisocks.c \
          tcp_timewait_state_process, inet_twsk_reschedule (v6.18). A SYN without ACK may be an old duplicate \
          as well as a new client with an unlucky number; if it started the timer over, that client, trying \
          again and again, would keep itself out for good. This holds for a SYN refused for its sequence \
          number. One with an older timestamp is an old duplicate for certain (PAWS, RFC 7323 5), and sets \
          the timer.",
    condition: Some("the SYN is refused for its sequence number: an older timestamp sets it, too"),
    seconds: 4,
    play: |stage: &mut Stage| -> Result<()> {
        let device = stage.wire()?;
        let server = stage.actor("server")?;
        let listener = server.listening(Version::V4.local(8000), Options::NONE)?;
        let mut waiting = Vec::new();
        for (case, port) in CASES.iter().zip(40_000..) {
            let mut pair = Scripted::served(&device, &listener, port, case.timestamps)?;
            pair.close_to_time_wait(stage)?;
            waiting.push(pair);
        }
        stage.let_pass(LATER)?;
        let (still, anew) = (
            Expected::between(
                Duration::from_secs(20),
                Duration::from_millis(60_100).saturating_sub(LATER),
            ),
            Expected::between(Duration::from_millis(57_500), Duration::from_millis(60_100)),
        );
        for (case, pair) in CASES.iter().zip(&mut waiting) {
            let answer = (case.send)(pair)?;
            let left = pair.left(stage)?;
            let reading = stage.reading(format!("left, {}", case.what));
            let sets = if case.sets { &anew } else { &still };
            let reading = match case.claimed {
                Some(true) => reading.claim(anew.clone()),
                Some(false) => reading.claim(still.clone()),
                None => reading,
            };
            reading
                .expect(sets.clone())
                .measured(left, Source::SockDiag);
            if let Some(answer) = answer {
                stage
                    .reading(format!("answer, {}", case.what))
                    .expect(ack())
                    .measured(answer, Source::Segment);
            }
        }
        Ok(())
    },
};

/// Something that comes, or nothing.
struct Case {
    what: &'static str,
    timestamps: Timestamps,
    /// Whether it sets the timer, as the claim says; `None` where the claim is silent.
    claimed: Option<bool>,
    /// Whether it does.
    sets: bool,
    /// Sends it. Returns the answer, if there is one.
    send: fn(&mut Scripted<'_>) -> Result<Option<String>>,
}

const CASES: &[Case] = &[
    Case {
        what: "nothing comes",
        timestamps: Timestamps::With,
        claimed: None,
        sets: false,
        send: |_| Ok(None),
    },
    Case {
        what: "the FIN comes again",
        timestamps: Timestamps::With,
        claimed: Some(true),
        sets: true,
        send: |pair| {
            pair.answer_to(|peer| peer.send_odd(fin(), BEFORE, b""))
                .map(Some)
        },
    },
    Case {
        what: "an ACK comes again",
        timestamps: Timestamps::Without,
        claimed: Some(true),
        sets: true,
        send: |pair| {
            pair.peer.send(Flags::ACK)?;
            // It has no answer. This has one when the other has been dealt with, and leaves the timer alone.
            pair.answer_to_syn(-1000, 0).map(Some)
        },
    },
    Case {
        what: "old data comes again",
        timestamps: Timestamps::With,
        claimed: None,
        sets: true,
        send: |pair| {
            pair.answer_to(|peer| peer.send_odd(Flags::ACK, BEFORE, b"!"))
                .map(Some)
        },
    },
    Case {
        what: "a SYN with an older number",
        timestamps: Timestamps::Without,
        claimed: Some(false),
        sets: false,
        send: |pair| pair.answer_to_syn(-1000, 0).map(Some),
    },
    Case {
        what: "a SYN with an older timestamp",
        timestamps: Timestamps::With,
        claimed: Some(false),
        sets: true,
        send: |pair| pair.answer_to_syn(1000, -1).map(Some),
    },
];

/// One number before what comes next.
const BEFORE: Odd = Odd {
    sequence: -1,
    acknowledgement: 0,
    timestamp: 0,
};
