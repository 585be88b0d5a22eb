//! connect(): ports that run out, tuples that exist, and peers that refuse.

use tcptrace_model::{
    Certainty, CloseSequence, Finding, Input, Listing, OwnerSource, Phase, Socket, SocketCall,
    TcpState::{Close, Established, FinWait1, FinWait2, SynSent},
    conflict::{PortUse, Remedy, Rule},
};

use super::{bind_fails, child, connect_fails, holder, listens, minisocket_holder, owner};
use crate::scene::{
    APP, MS, OPEN, ORPHAN, OTHER, RELEASED, S, Scene, address, error, listener, socket,
};

const EINTR: u16 = 4;
const ECONNREFUSED: u16 = 111;
const EINPROGRESS: u16 = 115;
const ERESTARTSYS: u16 = 512;

/// Four ports, all in use: three of them to `to`.
fn full(to: &str) -> PortUse {
    let mut by_state = [0; 14];
    by_state[Established as usize] = 3;
    by_state[Close as usize] = 1;
    let mut to_destination = [0; 14];
    to_destination[Established as usize] = 3;
    PortUse {
        ts_ns: 0,
        range: (40_000, 40_003),
        reserved: 0,
        held: 4,
        by_state,
        to_destination,
        destination: Some(address(to)),
    }
}

#[test]
fn when_ports_run_out_it_is_told_how_they_are_used() {
    let mut scene = Scene::new();
    let ports = full("10.0.0.2:80");
    scene.surrounds(1, Some(ports));
    scene.calls(connect_fails(1, "0.0.0.0:0", "10.0.0.2:80"));
    let told = scene.failure();
    assert_eq!(told.rule, Rule::PortsExhausted);
    assert_eq!(told.ports, Some(ports));
    assert_eq!((told.holders_total, told.blocking_total), (0, 0));
    assert!(told.holders.is_empty());
}

#[test]
fn an_automatic_port_of_bind_has_none_left() {
    let mut scene = Scene::new();
    let mut ports = full("10.0.0.2:80");
    ports.destination = None;
    ports.to_destination = [0; 14];
    scene.surrounds(1, Some(ports));
    scene.calls(SocketCall {
        listing: Listing::None,
        ..bind_fails(1, "0.0.0.0:0")
    });
    let told = scene.failure();
    assert_eq!(told.rule, Rule::NoFreePort);
    assert_eq!(told.ports, Some(ports));
    assert!(
        !told
            .doubts
            .contains(tcptrace_model::Doubt::HoldersNotListed)
    );
}

#[test]
fn what_user_space_found_out_belongs_to_one_call_only() {
    let mut scene = Scene::new();
    scene.surrounds(1, Some(full("10.0.0.2:80")));
    scene.calls(connect_fails(1, "0.0.0.0:0", "10.0.0.2:80"));
    scene.calls(connect_fails(1, "0.0.0.0:0", "10.0.0.2:80"));
    let told = scene.failures();
    assert!(told[0].ports.is_some());
    assert_eq!(told[1].ports, None);
    assert_ne!(told[1].certainty, Certainty::Exact);
}

/// A client at 10.0.0.1:4000 whose connection to 10.0.0.2:80 is in TIME_WAIT at address 9.
fn waits() -> (Scene, Socket) {
    let mut scene = Scene::new();
    let client = Socket {
        local: address("10.0.0.1:4000"),
        ..socket(1)
    };
    scene.goes_by(OTHER, &client, Close, SynSent);
    scene.goes(&client, SynSent, Established);
    scene.closes_by(OTHER, &client, Established, FinWait1, RELEASED);
    scene.goes(&client, FinWait1, FinWait2);
    scene.enters(&client, 9, Phase::TimeWait);
    scene.closes(&client, FinWait2, Close, ORPHAN);
    scene.told();
    (scene, client)
}

#[test]
fn a_tuple_in_time_wait_may_not_be_taken_without_timestamps() {
    let (mut scene, client) = waits();
    let mut waiting = minisocket_holder(&client, 9, Phase::TimeWait);
    waiting.timestamps = Some(false);
    scene.surrounds(3, None);
    scene.lists(3, waiting, Some(50 * S));
    let itself = Socket {
        sk: 3,
        ..listener(3, "10.0.0.1:4000")
    };
    scene.lists(3, holder(&itself, Close), None);
    scene.calls(SocketCall {
        listing: Listing::Whole,
        ..connect_fails(3, "10.0.0.1:4000", "10.0.0.2:80")
    });
    let told = scene.failure();
    assert_eq!(told.rule, Rule::TupleInTimeWait);
    assert_eq!(told.certainty, Certainty::Exact);
    assert_eq!((told.holders_total, told.blocking_total), (1, 1));
    assert_eq!(
        told.holders[0].owner,
        Some(owner(OTHER, OwnerSource::Connect))
    );
    assert!(told.free_at_ns.is_some());
    assert!(told.remedies.contains(&Remedy::OtherDestination));
}

#[test]
fn without_a_listing_the_tuple_is_looked_up() {
    let (mut scene, _) = waits();
    // Others at the same port do not matter to connect().
    let elsewhere = Socket {
        local: address("10.0.0.1:4000"),
        remote: address("10.0.0.3:80"),
        ..socket(20)
    };
    scene.goes_by(APP, &elsewhere, Close, SynSent);
    scene.told();
    scene.calls(connect_fails(3, "10.0.0.1:4000", "10.0.0.2:80"));
    let told = scene.failure();
    assert_eq!(told.holders_total, 1);
    assert_eq!(told.holders[0].holder.sk, 9);
    assert_eq!(
        told.holders[0].owner,
        Some(owner(OTHER, OwnerSource::Connect))
    );
    assert_ne!(told.certainty, Certainty::Exact);
}

#[test]
fn a_refused_connection_is_told_as_a_call_and_as_a_connection() {
    let mut scene = Scene::new();
    let client = socket(1);
    let mut unbound = client;
    unbound.local.set_port(0);
    scene.goes_by(APP, &unbound, Close, SynSent);
    scene.receives_reset(1, SynSent);
    scene.closes(&client, SynSent, Close, error(ECONNREFUSED, OPEN));
    scene.calls(SocketCall {
        error: ECONNREFUSED,
        ..connect_fails(1, "0.0.0.0:0", "10.0.0.2:80")
    });
    scene.advance(100 * MS);
    let told = scene.told();
    let connection = told.iter().find_map(|finding| match finding {
        Finding::Connection(told) => Some(told),
        _ => None,
    });
    let call = told.iter().find_map(|finding| match finding {
        Finding::CallFailed(told) => Some(told),
        _ => None,
    });
    let (connection, call) = (connection.unwrap(), call.unwrap());
    assert_eq!(connection.close, CloseSequence::Refused);
    assert_eq!(call.rule, Rule::Refused);
    assert_eq!(call.certainty, Certainty::Exact);
    assert_eq!(connection.socket.sk, call.call.sk);
    assert!(call.doubts.is_empty());
}

#[test]
fn what_goes_on_or_starts_again_has_not_failed() {
    let mut scene = Scene::new();
    for errno in [EINPROGRESS, ERESTARTSYS, 513, 514, 516] {
        scene.calls(SocketCall {
            error: errno,
            nonblocking: true,
            ..connect_fails(1, "0.0.0.0:0", "10.0.0.2:80")
        });
    }
    assert!(scene.failures().is_empty());
    assert!(scene.tracker.summary().calls_failed.is_empty());
    scene.calls(SocketCall {
        error: EINTR,
        ..connect_fails(1, "0.0.0.0:0", "10.0.0.2:80")
    });
    assert_eq!(scene.failure().rule, Rule::Interrupted);
}

#[test]
fn a_connect_names_an_owner_where_no_event_did() {
    let mut scene = Scene::new();
    let client = socket(1);
    scene.goes(&client, SynSent, Established);
    scene.calls(SocketCall {
        error: 0,
        ..connect_fails(1, "0.0.0.0:0", "10.0.0.2:80")
    });
    assert!(
        !scene
            .told()
            .iter()
            .any(|finding| matches!(finding, Finding::CallSucceeded(_)))
    );
    scene.closes_by(OTHER, &client, Established, FinWait1, RELEASED);
    assert_eq!(
        scene.transitions()[0].owner,
        Some(owner(APP, OwnerSource::Connect))
    );
}

#[test]
fn accept_by_a_call_still_names_the_owner() {
    let mut scene = Scene::new();
    scene.listens(OTHER, &listener(1, "0.0.0.0:80"));
    scene.calls(listens(1, "0.0.0.0:80"));
    let c = child(2, "10.0.0.1:80");
    scene.arrives(&c);
    let ts_ns = scene.now_ns;
    scene
        .tracker
        .handle(&Input::Accepted(tcptrace_model::Accepted {
            ts_ns,
            sk: 2,
            task: APP,
        }));
    scene.told();
    scene.lists(3, holder(&c, Established), None);
    scene.calls(bind_fails(3, "0.0.0.0:80"));
    assert_eq!(
        scene.failure().holders[0].owner,
        Some(owner(APP, OwnerSource::Accept))
    );
}
