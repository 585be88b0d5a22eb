//! The lines about calls, to the byte.

use tcptrace_model::{
    CallFailed, CallSucceeded, HolderFound, OptionsSource,
    conflict::{Call, Remedy, Rule},
};

use super::*;
use crate::render::text::samples::calls;

/// One of each kind of line, with every field that there is.
pub(super) fn every_kind(json: &mut Json<Vec<u8>>) -> io::Result<()> {
    for found in [
        calls::restarted(),
        calls::second_server(),
        calls::exhausted(),
    ] {
        json.finding(&Finding::CallFailed(Box::new(found)))?;
    }
    json.finding(&Finding::CallSucceeded(Box::new(calls::autobound())))?;
    json.finding(&failed_with(every_remedy()))?;
    json.would_fail(&calls::restarted())?;
    let call = calls::call(Call::Bind, 0, "127.0.0.1:80");
    json.would_succeed(&call, &[calls::listener("127.0.0.2:80")], 1)
}

/// Every remedy.
pub(super) fn every_remedy() -> Vec<Remedy> {
    vec![
        Remedy::ReuseaddrOnNew,
        Remedy::ReuseaddrOnBoth,
        Remedy::ReuseportOnNew,
        Remedy::ReuseportOnBoth,
        Remedy::V6onlyOnNew,
        Remedy::OtherAddress("127.0.0.2".parse().unwrap()),
        Remedy::Wait,
        Remedy::CloseHolders(vec![0, 2]),
        Remedy::Freebind,
        Remedy::NonlocalBind,
        Remedy::Capability,
        Remedy::UnprivilegedPortStart(80),
        Remedy::WiderPortRange,
        Remedy::OtherDestination,
        Remedy::TcpTwReuse,
        Remedy::AutobindReuse,
        Remedy::NewSocket,
        Remedy::ClearV6only,
    ]
}

fn failed_with(remedies: Vec<Remedy>) -> Finding {
    Finding::CallFailed(Box::new(CallFailed {
        remedies,
        ..calls::restarted()
    }))
}

#[test]
fn a_failed_call_has_every_field_by_its_name() {
    let mut found = calls::restarted();
    found.holders.truncate(1);
    found.holders[0].named_by_kernel = true;
    found.after_failed_bind = Some(calls::failed_bind());
    found.call.asker.device = 3;
    assert_eq!(
        rest(&Finding::CallFailed(Box::new(found))),
        [
            r#""call":"bind","errno":"EADDRINUSE","netns":4026531840,"family":"ipv4","#,
            r#""addr":"0.0.0.0","port":8000,"laddr":null,"lport":null,"raddr":null,"rport":null,"#,
            r#""pid":812,"tid":813,"comm":"python3","skaddr":"0xffff888100005000","cookie":91,"#,
            r#""began_ns":64999996000,"uid":1000,"reuseaddr":false,"reuseport":false,"#,
            r#""v6only":false,"device":3,"rule":"port_held","#,
            r#""holders":[{"state":"TIME_WAIT","minisocket":"time_wait","#,
            r#""laddr":"127.0.0.1","lport":8000,"raddr":"127.0.0.1","rport":50210,"#,
            r#""skaddr":"0xffff888100006000","cookie":78,"blocks":true,"rule":"port_held","#,
            r#""named_by_kernel":true,"#,
            r#""owner":{"pid":770,"comm":"python3","source":"listener"},"uid":null,"#,
            r#""reuseaddr":false,"reuseport":false,"v6only":false,"device":null,"#,
            r#""options":"kernel","since_ns":46000000000,"frees_in_ns":41000000000}],"#,
            r#""holders_total":3,"blocking_total":3,"ports":null,"#,
            r#""remedies":[{"remedy":"reuseaddr_on_both"},"#,
            r#"{"remedy":"wait","for_ns":41000000000}],"free_in_ns":41000000000,"#,
            r#""after_failed_bind":{"ts_ns":64000000000,"errno":"EADDRINUSE","#,
            r#""addr":"0.0.0.0","port":8000},"certainty":"exact","doubts":[]}"#,
        ]
        .concat()
    );
}

#[test]
fn exhausted_ports_have_their_counts_by_state() {
    let line = rest(&Finding::CallFailed(Box::new(calls::exhausted())));
    assert!(
        line.contains(
            &[
                r#""ports":{"counted_ns":65003000000,"low":32768,"high":60999,"reserved":4,"#,
                r#""held":28228,"by_state":{"ESTABLISHED":1200,"TIME_WAIT":27000,"CLOSE":12,"#,
                r#""LISTEN":16},"destination":"10.0.0.5:5432","#,
                r#""to_destination":{"ESTABLISHED":1200,"TIME_WAIT":27000}},"#,
            ]
            .concat()
        ),
        "{line}"
    );
    assert!(
        line.contains(r#""raddr":"10.0.0.5","rport":5432,"pid":812"#),
        "{line}"
    );
    let mut elsewhere = calls::exhausted();
    if let Some(ports) = &mut elsewhere.ports {
        ports.destination = None;
    }
    let line = rest(&Finding::CallFailed(Box::new(elsewhere)));
    assert!(
        line.contains(r#""destination":null,"to_destination":null}"#),
        "{line}"
    );
}

#[test]
fn remedies_have_what_belongs_to_them() {
    let line = rest(&failed_with(every_remedy()));
    for part in [
        r#"{"remedy":"other_address","addr":"127.0.0.2"}"#,
        r#"{"remedy":"close_holders","holders":[0,2]}"#,
        r#"{"remedy":"unprivileged_port_start","value":80}"#,
        r#"{"remedy":"clear_v6only"}"#,
    ] {
        assert!(line.contains(part), "{part}\n{line}");
    }
}

#[test]
fn what_is_not_known_of_a_holder_is_null() {
    let found = HolderFound {
        rule: None,
        blocks: false,
        owner: None,
        since_ns: None,
        options: OptionsSource::Unknown,
        ..calls::listener("[::]:80")
    };
    let mut failed = calls::failed(
        &calls::call(Call::Bind, libc::EADDRINUSE, "[::1]:80"),
        Rule::Unknown,
    );
    failed.holders = vec![found];
    let holder = &mut failed.holders[0].holder;
    holder.sk = 0;
    holder.cookie = None;
    (holder.reuseaddr, holder.reuseport) = (None, None);
    failed.call.asked = None;
    failed.call.cookie = None;
    failed.call.began_ns = None;
    let line = rest(&Finding::CallFailed(Box::new(failed)));
    for part in [
        r#""family":"ipv6","addr":null,"port":null,"#,
        r#""skaddr":"0xffff888100005000","began_ns":null,"#,
        r#"{"state":"LISTEN","minisocket":null,"laddr":"::","lport":80,"raddr":null,"rport":null,"#,
        r#""rport":null,"blocks":false,"rule":null,"named_by_kernel":false,"owner":null,"uid":33,"#,
        r#""reuseaddr":null,"reuseport":null,"#,
        r#""options":"unknown","since_ns":null,"frees_in_ns":null}"#,
    ] {
        assert!(line.contains(part), "{part}\n{line}");
    }
}

#[test]
fn an_address_of_another_family_is_none() {
    let mut found = calls::restarted();
    found.call.asked = found.call.asked.map(|mut asked| {
        asked.family = 1;
        asked
    });
    let line = rest(&Finding::CallFailed(Box::new(found)));
    assert!(line.contains(r#""addr":null,"port":null,"#), "{line}");
}

#[test]
fn a_call_that_succeeded_has_no_error() {
    assert_eq!(
        rest(&Finding::CallSucceeded(Box::new(CallSucceeded {
            after_failed_bind: None,
            ..calls::autobound()
        }))),
        [
            r#""call":"listen","errno":null,"netns":4026531840,"family":"ipv4","#,
            r#""addr":null,"port":null,"laddr":"0.0.0.0","lport":43211,"raddr":null,"#,
            r#""rport":null,"pid":812,"tid":813,"comm":"python3","#,
            r#""skaddr":"0xffff888100005000","cookie":91,"began_ns":64999996000,"uid":1000,"#,
            r#""reuseaddr":false,"reuseport":false,"v6only":false,"device":null,"backlog":128,"#,
            r#""autobound":true,"after_failed_bind":null}"#,
        ]
        .concat()
    );
}

#[test]
fn a_call_that_nobody_made_has_no_caller() {
    let line = written(|json| json.would_fail(&calls::restarted()));
    assert!(
        line.starts_with(r#"{"kind":"would_fail","ts_ns":65"#),
        "{line}"
    );
    assert!(
        line.contains(r#""rport":null,"uid":1000,"reuseaddr":false"#),
        "{line}"
    );
    let call = calls::call(Call::Bind, 0, "127.0.0.1:80");
    let line = written(|json| json.would_succeed(&call, &[calls::listener("127.0.0.2:80")], 3));
    assert!(line.starts_with(r#"{"kind":"would_succeed","#), "{line}");
    assert!(
        line.contains(r#""errno":null,"#) && line.ends_with("}],\"holders_total\":3}\n"),
        "{line}"
    );
}

#[test]
fn a_hostile_name_is_escaped_in_a_call() {
    let mut found = calls::restarted();
    found.call.task.comm = samples::process(1, "a\x1b\n").comm;
    let line = rest(&Finding::CallFailed(Box::new(found)));
    assert!(line.contains(r#""comm":"a\\x1b\\x0a""#), "{line}");
}
