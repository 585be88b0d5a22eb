//! listen(): the second look at the port.

use tcptrace_model::{
    Phase, TcpState,
    conflict::{BindSysctls, Rule, Verdict},
};

use super::scene::{
    EINVAL, accepted, asking, at, bound, decided, decided_with, fails, in_use, listen, listener,
    minisocket, unused, with,
};

const HERE: &str = "127.0.0.1:8080";
const PEER: &str = "127.0.0.1:40000";

#[test]
fn of_two_that_share_by_reuseaddr_the_second_cannot_listen() {
    let request = asking(listen(HERE), "R");
    assert_eq!(
        decided(&request, &[with(listener(HERE), "R")]),
        in_use(Rule::PortListening, &[0])
    );
    assert_eq!(
        decided(&request, &[with(bound(HERE), "R")]),
        Verdict::Succeeds
    );
    assert_eq!(decided(&request, &[]), Verdict::Succeeds);
}

#[test]
fn those_that_share_by_reuseport_all_listen() {
    let request = asking(listen(HERE), "P");
    assert_eq!(
        decided(&request, &[with(listener(HERE), "P")]),
        Verdict::Succeeds
    );
}

#[test]
fn both_options_and_another_user_bind_but_do_not_listen() {
    let request = asking(listen(HERE), "RP");
    assert_eq!(
        decided(&request, &[with(listener(HERE), "RPU")]),
        in_use(Rule::ReuseportOtherUser, &[0])
    );
}

#[test]
fn connections_and_minisockets_with_reuseaddr_do_not_stop_it() {
    let request = asking(listen(HERE), "R");
    let holders = [
        with(accepted(HERE, PEER, TcpState::Established), "R"),
        with(minisocket(HERE, PEER, Phase::TimeWait), "R"),
    ];
    assert_eq!(decided(&request, &holders), Verdict::Succeeds);
    let without = [minisocket(HERE, PEER, Phase::TimeWait)];
    assert_eq!(decided(&request, &without), in_use(Rule::PortHeld, &[0]));
}

#[test]
fn a_listener_only_changes_its_backlog() {
    let mut request = listen(HERE);
    request.asker.state = TcpState::Listen;
    assert_eq!(decided(&request, &[listener(HERE)]), Verdict::Succeeds);
}

#[test]
fn only_a_closed_socket_can_listen() {
    for state in TcpState::ALL {
        if [TcpState::Close, TcpState::Listen, TcpState::BoundInactive].contains(&state) {
            continue;
        }
        let mut request = listen(HERE);
        request.asker.state = state;
        assert_eq!(
            decided(&request, &[]),
            fails(EINVAL, Rule::CannotListen),
            "{state:?}"
        );
    }
}

#[test]
fn without_a_port_the_kernel_chooses_one() {
    let mut request = listen(HERE);
    request.asker.local = at("0.0.0.0:0");
    let sysctls = BindSysctls::default();
    assert_eq!(
        decided_with(&request, &sysctls, Some(unused(32_768, 60_999))),
        Verdict::Succeeds
    );
    assert!(matches!(
        decided_with(&request, &sysctls, None),
        Verdict::Undecided { .. }
    ));
}
