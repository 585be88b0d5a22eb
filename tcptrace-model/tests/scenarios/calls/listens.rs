//! listen(): the kernel looks at the port again, or chooses one.

use tcptrace_model::{
    Certainty, Doubt, FailedBind, Listing, OwnerSource, Socket, SocketCall,
    TcpState::{Close, Listen},
    conflict::{Asker, Rule},
};

use super::{EADDRINUSE, bind_fails, binds, child, cookie, holder, listens, owner, with_reuseaddr};
use crate::scene::{APP, OPEN, OTHER, RELEASED, Scene, address, listener, process};

/// A listen() by a socket that has no port: the kernel chooses one.
fn listens_anywhere(sk: u64, local: &str) -> SocketCall {
    let listen = listens(sk, local);
    SocketCall {
        asker: Asker {
            local: address("0.0.0.0:0"),
            ..listen.asker
        },
        ..listen
    }
}

#[test]
fn the_second_listen_of_two_that_share_a_port_fails() {
    let mut scene = Scene::new();
    let one = Socket {
        reuseaddr: true,
        ..listener(1, "0.0.0.0:80")
    };
    let two = Socket { sk: 2, ..one };
    scene.calls(with_reuseaddr(binds(1, "0.0.0.0:80")));
    scene.calls(SocketCall {
        task: OTHER,
        ..with_reuseaddr(binds(2, "0.0.0.0:80"))
    });
    scene.listens(APP, &one);
    scene.calls(with_reuseaddr(listens(1, "0.0.0.0:80")));
    // net/ipv4/inet_connection_sock.c `inet_csk_listen_start` sets LISTEN before it looks.
    scene.listens(OTHER, &two);
    scene.closes_by(OTHER, &two, Listen, Close, OPEN);
    scene.told();
    scene.lists(2, holder(&one, Listen), None);
    scene.lists(2, holder(&two, Listen), None);
    let listen = SocketCall {
        error: EADDRINUSE,
        task: OTHER,
        listing: Listing::Whole,
        ..with_reuseaddr(listens(2, "0.0.0.0:80"))
    };
    scene.calls(listen);
    let told = scene.failure();
    assert_eq!(told.certainty, Certainty::Exact);
    assert_eq!(told.rule, Rule::PortListening);
    assert_eq!(told.holders_total, 1, "the asker is not in its own way");
    assert_eq!(told.holders[0].holder.sk, 1);
    assert_eq!(told.holders[0].owner, Some(owner(APP, OwnerSource::Listen)));

    // It is bound as before.
    let third = SocketCall {
        listing: Listing::None,
        ..bind_fails(3, "0.0.0.0:80")
    };
    scene.calls(third);
    let told = scene.failure();
    assert_eq!(told.holders_total, 2, "{:?}", told.holders);
    assert_eq!(told.holders[1].holder.sk, 2);
    assert_eq!(told.holders[1].holder.state, Close);
    assert_eq!(told.holders[1].owner.unwrap().process, process(OTHER));
}

#[test]
fn after_a_bind_that_failed_it_listens_where_nobody_meant() {
    let mut scene = Scene::new();
    scene.lists(1, holder(&listener(9, "0.0.0.0:80"), Listen), None);
    scene.calls(bind_fails(1, "0.0.0.0:80"));
    let failed_ns = scene.now_ns;
    scene.told();
    scene.listens(APP, &listener(1, "0.0.0.0:0"));
    scene.calls(listens_anywhere(1, "0.0.0.0:41234"));
    let told = scene.success();
    assert!(told.autobound);
    assert_eq!(
        told.after_failed_bind,
        Some(FailedBind {
            ts_ns: failed_ns,
            error: EADDRINUSE,
            asked: Some(address("0.0.0.0:80")),
        })
    );
    assert_eq!(told.call.local, address("0.0.0.0:41234"));
}

#[test]
fn another_socket_at_the_same_address_has_no_failed_bind_behind_it() {
    let failed = || {
        let mut scene = Scene::new();
        scene.calls(bind_fails(1, "0.0.0.0:80"));
        scene.told();
        scene
    };
    // Another process.
    let mut scene = failed();
    scene.calls(SocketCall {
        task: OTHER,
        ..listens_anywhere(1, "0.0.0.0:41234")
    });
    assert_eq!(scene.success().after_failed_bind, None);
    // The address was a child's meanwhile.
    let mut scene = failed();
    scene.arrives(&child(1, "10.0.0.1:443"));
    scene.calls(listens_anywhere(1, "0.0.0.0:41234"));
    assert_eq!(scene.success().after_failed_bind, None);
    // The next socket of the same process: it tries again, as they do.
    let mut scene = failed();
    scene.calls(binds(1, "0.0.0.0:80"));
    assert_eq!(scene.success().after_failed_bind, None);
    scene.calls(listens_anywhere(1, "0.0.0.0:41234"));
    assert_eq!(scene.success().after_failed_bind, None);
    // Another cookie.
    let mut scene = Scene::new();
    scene.calls(SocketCall {
        cookie: cookie(1),
        ..bind_fails(1, "0.0.0.0:80")
    });
    scene.calls(SocketCall {
        cookie: cookie(2),
        ..listens_anywhere(1, "0.0.0.0:41234")
    });
    assert_eq!(scene.success().after_failed_bind, None);
}

#[test]
fn with_its_cookie_a_bind_after_a_failed_one_is_the_same_sockets() {
    let mut scene = Scene::new();
    let with_cookie = |call: SocketCall| SocketCall {
        cookie: cookie(1),
        ..call
    };
    scene.calls(with_cookie(bind_fails(1, "0.0.0.0:80")));
    scene.calls(with_cookie(bind_fails(1, "0.0.0.0:81")));
    let told = scene.failures();
    assert_eq!(told[0].after_failed_bind, None);
    let before = told[1].after_failed_bind.unwrap();
    assert_eq!(before.asked, Some(address("0.0.0.0:80")));
    scene.calls(with_cookie(binds(1, "0.0.0.0:82")));
    let before = scene.success().after_failed_bind.unwrap();
    assert_eq!(before.asked, Some(address("0.0.0.0:81")));
    // It has what it wants now.
    scene.calls(with_cookie(listens(1, "0.0.0.0:82")));
    let told = scene.success();
    assert_eq!((told.after_failed_bind, told.autobound), (None, false));
}

#[test]
fn a_listener_whose_port_the_kernel_chose_owns_its_children() {
    let mut scene = Scene::new();
    scene.listens(APP, &listener(1, "0.0.0.0:0"));
    scene.calls(listens_anywhere(1, "0.0.0.0:41234"));
    scene.told();
    scene.arrives(&child(2, "10.0.0.1:41234"));
    let told = scene.transitions();
    assert_eq!(told[1].owner, Some(owner(APP, OwnerSource::Listener)));
}

#[test]
fn a_listener_whose_beginning_was_lost_is_known_by_its_call() {
    let mut scene = Scene::new();
    scene.gap();
    scene.calls(listens(1, "0.0.0.0:80"));
    scene.told();
    let l = listener(1, "0.0.0.0:80");
    scene.lists(2, holder(&l, Listen), None);
    scene.calls(bind_fails(2, "0.0.0.0:80"));
    let told = scene.failure();
    assert_eq!(told.holders[0].owner, Some(owner(APP, OwnerSource::Listen)));
    scene.closes_by(OTHER, &l, Listen, Close, RELEASED);
    assert_eq!(
        scene.transitions()[0].owner,
        Some(owner(APP, OwnerSource::Listen))
    );
}

#[test]
fn a_new_backlog_is_no_new_listener() {
    let mut scene = Scene::new();
    let l = listener(1, "0.0.0.0:80");
    scene.listens(APP, &l);
    let since_ns = scene.now_ns;
    let again = listens(1, "0.0.0.0:80");
    scene.calls(SocketCall {
        asker: Asker {
            state: Listen,
            ..again.asker
        },
        task: OTHER,
        ..again
    });
    assert!(!scene.success().autobound);
    scene.lists(2, holder(&l, Listen), None);
    scene.calls(bind_fails(2, "0.0.0.0:80"));
    let told = scene.failure();
    assert_eq!(told.holders[0].owner, Some(owner(APP, OwnerSource::Listen)));
    assert_eq!(told.holders[0].since_ns, Some(since_ns));
    assert!(!told.doubts.contains(Doubt::HoldersNotListed));
}
