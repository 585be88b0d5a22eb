//! What machines read, to the byte.

mod calls;

use tcptrace_model::{
    Certainty, CloseCause, CloseSequence, ClosedFirst, Connection, Doubt, OptionsSource,
    OwnerSource, Phase, Role, Story, TcpState, TimeWait, TimeWaitEnd, TimeWaitEntered,
    conflict::{Remedy, Rule},
};

use super::*;
use crate::render::text::samples;

fn written(write: impl FnOnce(&mut Json<Vec<u8>>) -> io::Result<()>) -> String {
    let mut json = Json::new(Vec::new(), 1_000_000_000_000_000_000);
    write(&mut json).unwrap();
    String::from_utf8(json.lines.out).unwrap()
}

#[test]
fn a_transition_has_every_field_by_its_name() {
    let finding = samples::transition("127.0.0.1:8000", "127.0.0.1:40000", Some(1_500_000));
    assert_eq!(
        written(|json| json.finding(&finding)),
        concat!(
            r#"{"kind":"transition","ts_ns":5067000000,"time":"2001-09-09T01:46:45.067000000Z","#,
            r#""netns":4026531840,"family":"ipv4","laddr":"127.0.0.1","lport":8000,"#,
            r#""raddr":"127.0.0.1","rport":40000,"skaddr":"0xffff888100001000","cookie":77,"#,
            r#""owner":null,"uid":1000,"cgroup_id":4242,"reuseaddr":true,"reuseport":false,"#,
            r#""oldstate":"ESTABLISHED","newstate":"FIN_WAIT1","in_state_ns":1500000,"cpu":1,"#,
            r#""current":{"pid":200,"tid":201,"comm":"nginx"}}"#,
            "\n"
        )
    );
}

#[test]
fn addresses_are_written_as_any_number_is_in_hexadecimal() {
    for address in [0, 1, 0xf, 0x10, 0xffff_8881_0000_1000, u64::MAX] {
        let written = serde_json::to_string(&fields::Address(address)).unwrap();
        assert_eq!(written, format!("\"{address:#x}\""));
    }
}

#[test]
fn what_is_unknown_is_null_never_zero() {
    let mut finding = samples::transition("[::1]:8000", "[::1]:40000", None);
    if let Finding::Transition(found) = &mut finding {
        let transition = &mut found.transition;
        transition.socket.cookie = None;
        transition.socket.netns = None;
        transition.socket.cgroup_id = None;
    }
    let line = written(|json| json.finding(&finding));
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    for name in ["in_state_ns", "netns", "cgroup_id"] {
        assert!(value[name].is_null(), "{name}: {line}");
    }
    assert_eq!(value.get("cookie"), None);
    assert_eq!(value["family"], "ipv6");
}

#[test]
fn losses_and_the_summary_name_their_counts() {
    let line = written(|json| json.finding(&samples::lost(7)));
    assert!(
        line.contains(r#""records":7,"record_kind":"transition","reason":"buffer_full","cpu":1}"#),
        "{line}"
    );
    let line = written(|json| json.end(&samples::end()));
    assert!(line.starts_with(r#"{"kind":"summary","#), "{line}");
    assert!(
        line.contains(
            r#""duration_ns":10000000000,"transitions":12,"shown":10,"lost":7,"evicted":0,"connections":0,"#
        ),
        "{line}"
    );
}

/// The line of a finding, behind the three fields that all lines have.
fn rest(finding: &Finding) -> String {
    let line = written(|json| json.finding(finding));
    let (head, rest) = line.split_once(r#"Z","#).unwrap();
    assert!(head.starts_with(r#"{"kind":""#) && head.contains(r#","ts_ns":"#));
    rest.trim_end().to_owned()
}

/// What lines about a socket of the samples go on with.
const CLIENT: &str = concat!(
    r#""netns":4026531840,"family":"ipv4","laddr":"127.0.0.1","lport":40000,"#,
    r#""raddr":"127.0.0.1","rport":8000,"#
);

#[test]
fn a_transition_has_its_owner_and_stays_raw() {
    let Finding::Transition(found) = samples::into_minisocket(Phase::TimeWait) else {
        unreachable!("the sample is a transition");
    };
    let line = rest(&Finding::Transition(found));
    assert!(
        line.contains(r#""owner":{"pid":812,"comm":"curl","source":"connect"},"uid""#),
        "{line}"
    );
    assert!(line.contains(r#""newstate":"CLOSE""#), "{line}");
}

#[test]
fn an_entered_time_wait_has_every_field_by_its_name() {
    let entered = samples::time_wait_entered();
    let finding = |found| Finding::TimeWaitEntered(Box::new(found));
    assert_eq!(
        rest(&finding(entered)),
        [
            CLIENT,
            r#""skaddr":"0xffff888100001000","twaddr":"0xffff888100002000","cookie":77,"#,
            r#""owner":{"pid":812,"comm":"curl","source":"connect"},"#,
            r#""fin_wait2":false,"timeout_ms":60000,"reuseaddr":true,"reuseport":false,"#,
            r#""certainty":"exact","doubts":[]}"#,
        ]
        .concat()
    );
    let line = rest(&finding(TimeWaitEntered {
        sk: None,
        owner: None,
        phase: Phase::FinWait2,
        ..entered
    }));
    assert!(!line.contains("skaddr"), "{line}");
    assert!(line.contains(r#""owner":null,"fin_wait2":true,"#), "{line}");
}

#[test]
fn a_time_wait_has_every_field_by_its_name() {
    let found = TimeWait {
        by: Some(samples::process(123, "a\x1bb")),
        certainty: Certainty::Inferred,
        doubts: samples::doubts(&[Doubt::RecordsLost, Doubt::DateFromTimer]),
        rearmed: 2,
        rearmed_at_least: true,
        ..samples::time_wait(TimeWaitEnd::ReusedByConnect)
    };
    assert_eq!(
        rest(&Finding::TimeWait(Box::new(found))),
        [
            CLIENT,
            r#""twaddr":"0xffff888100002000","cookie":77,"#,
            r#""owner":{"pid":812,"comm":"curl","source":"connect"},"#,
            r#""entered_ns":5067030000,"fin_wait2_ns":1200000,"time_wait_ns":60012000000,"#,
            r#""rearmed":2,"rearmed_at_least":true,"last_phase":"time_wait","#,
            r#""end":"reused_by_connect","by":{"pid":123,"comm":"a\\x1bb"},"#,
            r#""reuseaddr":true,"reuseport":false,"#,
            r#""certainty":"inferred","doubts":["records_lost","date_from_timer"]}"#,
        ]
        .concat()
    );
}

#[test]
fn a_minisocket_without_an_address_has_none() {
    let mut found = samples::time_wait(TimeWaitEnd::NeverEntered);
    found.minisocket.tw = 0;
    found.entered_ns = None;
    found.time_wait_ns = None;
    let line = rest(&Finding::TimeWait(Box::new(found)));
    assert!(!line.contains("twaddr"), "{line}");
    assert!(line.contains(r#""entered_ns":null,"#), "{line}");
    assert!(line.contains(r#""time_wait_ns":null,"#), "{line}");
    assert!(
        line.contains(r#""end":"never_entered","by":null,"#),
        "{line}"
    );
}

#[test]
fn a_connection_has_every_field_by_its_name() {
    let Story { second, .. } = samples::reset();
    let end = Connection {
        closed_by: Some(samples::process(99, "worker")),
        closed_first: Some(ClosedFirst::Remote),
        half_closed_ns: Some(1_000),
        peer: samples::killed().first.peer,
        ..second.unwrap()
    };
    assert_eq!(
        rest(&Finding::Connection(Box::new(end))),
        [
            r#""netns":4026531840,"family":"ipv4","laddr":"127.0.0.1","lport":8000,"#,
            r#""raddr":"127.0.0.1","rport":40000,"skaddr":"0xffff888100001000","cookie":77,"#,
            r#""owner":{"pid":77,"comm":"nginx","source":"accept"},"#,
            r#""uid":1000,"cgroup_id":4242,"reuseaddr":true,"reuseport":false,"#,
            r#""role":"server","close":"reset_sent","cause":"unread_data_reset","error":null,"#,
            r#""reset":{"direction":"sent","reason":"TCP_ABORT_ON_CLOSE","ts_ns":5067012000},"#,
            r#""reset_reason":"TCP_ABORT_ON_CLOSE","closed_first":"remote","#,
            r#""closed_by":{"pid":99,"comm":"worker"},"half_closed_ns":1000,"#,
            r#""states":[{"state":"ESTABLISHED","entered_ns":2567010000,"ns":2500004000}],"#,
            r#""established_ns":2500004000,"minisocket":null,"never_entered":false,"#,
            r#""peer":{"skaddr":"0xffff888100003000","netns":4026531840,"#,
            r#""owner":{"pid":77,"comm":"nginx","source":"listener"}},"#,
            r#""complete":true,"certainty":"exact","doubts":[]}"#,
        ]
        .concat()
    );
}

#[test]
fn a_connection_names_the_signal_the_error_and_what_it_has_not() {
    let line = rest(&Finding::Connection(Box::new(samples::killed().first)));
    for part in [
        r#""cause":"signal","signal":9,"error":null,"reset":null,"closed_first":"local","#,
        r#""closed_by":null,"half_closed_ns":null,"#,
        r#""minisocket":"fin_wait2","#,
    ] {
        assert!(line.contains(part), "{part}\n{line}");
    }
    let exited = Connection {
        cause: CloseCause::Exit,
        exit_status: Some(1),
        ..samples::reset().first
    };
    let line = rest(&Finding::Connection(Box::new(exited)));
    for part in [
        r#""cause":"exit","exit_status":1,"error":"ECONNRESET","#,
        r#""reset":{"direction":"received","reason":null,"ts_ns":5067009000},"closed_first":null,"#,
    ] {
        assert!(line.contains(part), "{part}\n{line}");
    }
}

#[test]
fn a_stuck_connection_has_every_field_by_its_name() {
    let found = samples::stuck(TcpState::FinWait2, Role::Client);
    assert_eq!(
        rest(&Finding::Stuck(Box::new(found))),
        [
            CLIENT,
            r#""skaddr":"0xffff888100001000","cookie":77,"#,
            r#""owner":{"pid":812,"comm":"curl","source":"connect"},"#,
            r#""uid":1000,"cgroup_id":4242,"reuseaddr":true,"reuseport":false,"#,
            r#""state":"FIN_WAIT2","for_ns":61000000000,"role":"client","#,
            r#""certainty":"exact","doubts":[]}"#,
        ]
        .concat()
    );
}

#[test]
fn a_story_has_no_line_because_its_ends_have() {
    let story = Finding::Story(Box::new(samples::reset()));
    assert_eq!(written(|json| json.finding(&story)), "");
}

#[test]
fn the_summary_has_every_count_by_its_name() {
    let line = written(|json| json.end(&samples::full_end()));
    let (_, rest) = line.split_once(r#"Z","#).unwrap();
    assert_eq!(
        rest.trim_end(),
        concat!(
            r#""duration_ns":300000000000,"transitions":1234,"shown":1234,"lost":0,"evicted":0,"#,
            r#""connections":310,"closes":{"local_first":140,"remote_first":141,"#,
            r#""reset_received":28,"timed_out":1},"#,
            r#""causes":{"close":250,"exit":31,"retransmit_timeout":1,"peer":28},"#,
            r#""stuck":1,"calls_failed":[{"call":"bind","errno":"EADDRINUSE","#,
            r#""rule":"port_held","count":12},{"call":"connect","errno":"ECONNREFUSED","#,
            r#""rule":"refused","count":30}],"open":4,"time_waits_entered":140,"#,
            r#""time_wait_ends":{"expired":120,"reused_by_connect":3,"never_entered":2},"#,
            r#""time_wait":{"count":118,"min_ns":60010000000,"median_ns":60911000000,"#,
            r#""p90_ns":61800000000,"p99_ns":62031000000,"max_ns":62048123456,"#,
            r#""width_ns":500000000,"histogram":[{"from_ns":60000000000,"count":20},"#,
            r#"{"from_ns":60500000000,"count":61},{"from_ns":61000000000,"count":0},"#,
            r#"{"from_ns":61500000000,"count":36},{"from_ns":62000000000,"count":1}]},"#,
            r#""fin_wait2":{"count":2,"min_ns":60100000000,"median_ns":60100000000,"#,
            r#""p90_ns":61100000000,"p99_ns":61100000000,"max_ns":61100000000,"#,
            r#""width_ns":1000000000,"histogram":[{"from_ns":60000000000,"count":1},"#,
            r#"{"from_ns":61000000000,"count":1}]},"waiting":17}"#,
        )
    );
}

/// Every name of a field in `value`, in objects within objects too.
fn names(value: &serde_json::Value, into: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                into.push(name.clone());
                // The names in these are words, not fields.
                let of_words = [
                    "closes",
                    "causes",
                    "time_wait_ends",
                    "by_state",
                    "to_destination",
                ];
                if !of_words.contains(&name.as_str()) {
                    names(value, into);
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| names(value, into)),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => {}
    }
}

#[test]
fn every_field_and_every_word_is_documented() {
    const DOCUMENT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/events.md"));
    let everything = written(|json| {
        for finding in [
            samples::into_minisocket(Phase::TimeWait),
            samples::lost(1),
            Finding::TimeWaitEntered(Box::new(samples::time_wait_entered())),
            Finding::TimeWait(Box::new(samples::time_wait(TimeWaitEnd::Expired))),
            Finding::Connection(Box::new(samples::killed().first)),
            Finding::Connection(Box::new(samples::reset().second.unwrap())),
            Finding::Stuck(Box::new(samples::stuck(TcpState::LastAck, Role::Client))),
        ] {
            json.finding(&finding)?;
        }
        calls::every_kind(json)?;
        json.end(&samples::full_end())
    });
    let mut fields = Vec::new();
    for line in everything.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let kind = value["kind"].as_str().unwrap();
        assert!(DOCUMENT.contains(&format!("## `{kind}`")), "{kind}");
        names(&value, &mut fields);
    }
    for field in fields {
        assert!(DOCUMENT.contains(&format!("`{field}`")), "{field}");
    }
    let words = CloseSequence::ALL.iter().map(|word| word.name());
    let words = words
        .chain(CloseCause::ALL.iter().map(|word| word.name()))
        .chain(TimeWaitEnd::ALL.iter().map(|word| word.name()))
        .chain(Certainty::ALL.iter().map(|word| word.name()))
        .chain(Doubt::ALL.iter().map(|word| word.name()))
        .chain(OwnerSource::ALL.iter().map(|word| word.name()))
        .chain(Rule::ALL.iter().map(|word| word.name()))
        .chain(OptionsSource::ALL.iter().map(|word| word.name()));
    let remedies = calls::every_remedy();
    let words = words.chain(remedies.iter().map(Remedy::name));
    for word in words {
        assert!(DOCUMENT.contains(&format!("\n| `{word}` | ")), "{word}");
    }
}
