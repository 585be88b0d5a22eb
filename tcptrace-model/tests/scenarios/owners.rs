//! Who owns a connection, and where that is known from.

use tcptrace_model::{
    Evidence, Owner, OwnerSource, Socket, Task,
    TcpState::{Close, CloseWait, Established, FinWait1, LastAck, Listen, SynRecv},
};

use crate::scene::{
    APP, BYSTANDER, CONTAINER, ORPHAN, OTHER, RELEASED, S, Scene, UNACCEPTED, address, listener,
    process, socket,
};

fn owner(task: Task, source: OwnerSource) -> Owner {
    Owner {
        process: process(task),
        source,
    }
}

/// A child of the listener at port 80.
fn child(sk: u64, local: &str) -> Socket {
    Socket {
        local: address(local),
        remote: address("10.0.0.9:5555"),
        ..socket(sk)
    }
}

#[test]
fn whoever_connects_owns() {
    let mut scene = Scene::new();
    scene.connects(&socket(1));
    for told in scene.transitions() {
        assert_eq!(told.owner, Some(owner(APP, OwnerSource::Connect)));
    }
}

#[test]
fn whoever_listens_owns_the_listener() {
    let mut scene = Scene::new();
    let l = listener(1, "0.0.0.0:80");
    scene.listens(APP, &l);
    scene.goes_by(OTHER, &l, Listen, Close);
    for told in scene.transitions() {
        assert_eq!(told.owner, Some(owner(APP, OwnerSource::Listen)));
    }
}

#[test]
fn a_child_is_the_listeners_until_somebody_accepts_it() {
    let mut scene = Scene::new();
    scene.listens(OTHER, &listener(1, "0.0.0.0:80"));
    let s = child(2, "10.0.0.1:80");
    scene.arrives(&s);
    let told = scene.transitions();
    assert_eq!(told[1].owner, Some(owner(OTHER, OwnerSource::Listener)));
    assert_eq!(told[2].owner, Some(owner(OTHER, OwnerSource::Listener)));
    scene.accepted(2, APP);
    scene.goes(&s, Established, CloseWait);
    let told = scene.transitions();
    assert_eq!(told[0].owner, Some(owner(APP, OwnerSource::Accept)));
}

#[test]
fn the_listener_is_found_as_the_kernel_finds_it() {
    for (listens_at, local, found) in [
        ("10.0.0.1:80", "10.0.0.1:80", true),
        ("10.0.0.2:80", "10.0.0.1:80", false),
        ("0.0.0.0:80", "10.0.0.1:80", true),
        ("[::]:80", "10.0.0.1:80", true),
        ("[::]:80", "[::ffff:10.0.0.1]:80", true),
        ("0.0.0.0:80", "[::ffff:10.0.0.1]:80", true),
        ("[::]:80", "[2001:db8::1]:80", true),
        ("0.0.0.0:80", "[2001:db8::1]:80", false),
        ("[::1]:80", "[::1]:80", true),
        ("0.0.0.0:81", "10.0.0.1:80", false),
    ] {
        let mut scene = Scene::new();
        scene.listens(APP, &listener(1, listens_at));
        scene.arrives(&child(2, local));
        let told = scene.transitions();
        assert_eq!(told[2].owner.is_some(), found, "{listens_at} {local}");
    }
}

#[test]
fn an_exact_address_comes_before_a_wildcard() {
    let mut scene = Scene::new();
    scene.listens(OTHER, &listener(1, "0.0.0.0:80"));
    scene.listens(APP, &listener(2, "10.0.0.1:80"));
    scene.arrives(&child(3, "10.0.0.1:80"));
    assert_eq!(
        scene.transitions()[3].owner,
        Some(owner(APP, OwnerSource::Listener))
    );
}

#[test]
fn a_listener_in_another_namespace_is_another_one() {
    let mut scene = Scene::new();
    let elsewhere = Socket {
        netns: Some(CONTAINER),
        ..listener(1, "0.0.0.0:80")
    };
    scene.listens(APP, &elsewhere);
    scene.arrives(&child(2, "10.0.0.1:80"));
    assert_eq!(scene.transitions()[2].owner, None);
}

#[test]
fn of_several_listeners_at_one_place_none_is_named() {
    let mut scene = Scene::new();
    scene.listens(APP, &listener(1, "0.0.0.0:80"));
    scene.listens(OTHER, &listener(2, "0.0.0.0:80"));
    scene.arrives(&child(3, "10.0.0.1:80"));
    assert_eq!(scene.transitions()[3].owner, None);
    // Of several that one process has, that process.
    scene.listens(APP, &listener(4, "0.0.0.0:81"));
    scene.listens(APP, &listener(5, "0.0.0.0:81"));
    scene.arrives(&child(6, "10.0.0.1:81"));
    assert_eq!(
        scene.transitions()[3].owner,
        Some(owner(APP, OwnerSource::Listener))
    );
}

#[test]
fn a_closed_listener_is_nobodys_any_more() {
    let mut scene = Scene::new();
    let l = listener(1, "0.0.0.0:80");
    scene.listens(APP, &l);
    scene.goes_by(APP, &l, Listen, Close);
    scene.arrives(&child(2, "10.0.0.1:80"));
    assert_eq!(scene.transitions()[3].owner, None);
}

#[test]
fn after_a_loss_a_listener_is_not_sure() {
    let mut scene = Scene::new();
    scene.listens(APP, &listener(1, "0.0.0.0:80"));
    scene.gap();
    scene.arrives(&child(2, "10.0.0.1:80"));
    assert_eq!(scene.transitions()[2].owner, None);
}

#[test]
fn the_first_event_of_a_child_may_show_the_listeners_address_only() {
    let mut scene = Scene::new();
    scene.listens(APP, &listener(1, "0.0.0.0:80"));
    let like_listener = Socket {
        remote: address("0.0.0.0:0"),
        ..child(2, "0.0.0.0:80")
    };
    scene.goes(&like_listener, Listen, SynRecv);
    assert_eq!(
        scene.transitions()[1].owner,
        Some(owner(APP, OwnerSource::Listener))
    );
}

#[test]
fn whoever_closes_is_the_owner_if_nobody_better_is_known() {
    let mut scene = Scene::new();
    let s = socket(1);
    scene.goes(&s, Established, CloseWait);
    scene.closes_by(APP, &s, CloseWait, LastAck, RELEASED);
    let told = scene.transitions();
    assert_eq!(told[0].owner, None);
    assert_eq!(told[1].owner, Some(owner(APP, OwnerSource::Closer)));
    scene.closes(&s, LastAck, Close, ORPHAN);
    assert_eq!(
        scene.connection().owner,
        Some(owner(APP, OwnerSource::Closer))
    );
}

#[test]
fn a_closer_is_better_than_a_listener_and_worse_than_a_connect() {
    let mut scene = Scene::new();
    scene.listens(APP, &listener(9, "0.0.0.0:80"));
    let s = child(1, "10.0.0.1:80");
    scene.arrives(&s);
    scene.closes_by(OTHER, &s, Established, FinWait1, RELEASED);
    let told = scene.transitions();
    assert_eq!(
        told.last().unwrap().owner,
        Some(owner(OTHER, OwnerSource::Closer))
    );
    let c = socket(2);
    scene.connects(&c);
    scene.closes_by(OTHER, &c, Established, FinWait1, RELEASED);
    let told = scene.transitions();
    assert_eq!(
        told.last().unwrap().owner,
        Some(owner(APP, OwnerSource::Connect))
    );
}

#[test]
fn the_task_in_softirq_is_never_an_owner() {
    let mut scene = Scene::new();
    let s = socket(1);
    scene.arrives(&s);
    scene.goes(&s, Established, CloseWait);
    scene.closes(&s, CloseWait, Close, crate::scene::error(32, UNACCEPTED));
    let told = scene.connection();
    assert_eq!(told.owner, None);
    assert_eq!(told.closed_by, None);
}

#[test]
fn the_kernels_own_thread_is_never_an_owner() {
    let mut scene = Scene::new();
    let s = socket(1);
    scene.goes(&s, Established, CloseWait);
    let deferred = Evidence {
        kernel_thread: true,
        ..RELEASED
    };
    scene.closes_by(BYSTANDER, &s, CloseWait, LastAck, deferred);
    scene.closes(&s, LastAck, Close, ORPHAN);
    let told = scene.connection();
    assert_eq!((told.owner, told.closed_by), (None, None));
}

#[test]
fn the_closer_may_be_another_process_than_the_owner() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.wait(S);
    scene.closes_by(OTHER, &c, Established, Close, RELEASED);
    let told = scene.connection();
    assert_eq!(told.owner, Some(owner(APP, OwnerSource::Connect)));
    assert_eq!(told.closed_by, Some(process(OTHER)));
}

#[test]
fn an_accepted_socket_that_nobody_knows_is_ignored() {
    let mut scene = Scene::new();
    scene.accepted(1, APP);
    scene.goes(&socket(1), SynRecv, Established);
    assert_eq!(scene.transitions()[0].owner, None);
}
