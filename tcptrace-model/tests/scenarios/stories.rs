//! Both ends of a connection on one host.

use tcptrace_model::{
    CloseSequence, Socket, Story,
    TcpState::{Close, CloseWait, Established, FinWait1, FinWait2, LastAck},
};

use crate::scene::{
    APP, CONTAINER, HOST, MS, OPEN, ORPHAN, RELEASED, S, Scene, address, error, opposite, socket,
};

fn loopback(sk: u64) -> Socket {
    Socket {
        local: address("127.0.0.1:40001"),
        remote: address("127.0.0.1:80"),
        ..socket(sk)
    }
}

/// Both ends, established.
fn both(scene: &mut Scene, client: &Socket, server: &Socket) {
    scene.connects(client);
    scene.accepts(server);
}

fn client_closes_first(scene: &mut Scene, c: &Socket, s: &Socket) {
    scene.closes_by(APP, c, Established, FinWait1, RELEASED);
    scene.goes(s, Established, CloseWait);
    scene.goes(c, FinWait1, FinWait2);
    scene.closes_by(APP, s, CloseWait, LastAck, RELEASED);
    scene.enters(c, 9, tcptrace_model::Phase::TimeWait);
    scene.closes(c, FinWait2, Close, ORPHAN);
    scene.closes(s, LastAck, Close, ORPHAN);
}

fn only(stories: Vec<Story>) -> Story {
    let [story] = <[_; 1]>::try_from(stories).unwrap();
    story
}

#[test]
fn one_story_for_both_ends() {
    let mut scene = Scene::new();
    let (c, s) = (loopback(1), opposite(&loopback(1), 2));
    both(&mut scene, &c, &s);
    client_closes_first(&mut scene, &c, &s);
    let story = only(scene.stories());
    let second = story.second.unwrap();
    assert_eq!((story.first.socket.sk, second.socket.sk), (1, 2));
    assert_eq!(story.first.close, CloseSequence::LocalFirst);
    assert_eq!(second.close, CloseSequence::RemoteFirst);
    assert_eq!(story.open_peer, None);
    assert_eq!(story.first.peer.unwrap().sk, 2);
    assert_eq!(second.peer.unwrap().sk, 1);
    assert_eq!(second.peer.unwrap().owner, story.first.owner);
}

#[test]
fn a_peer_elsewhere_makes_a_story_of_one_end_at_once() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.closes(&c, Established, Close, error(104, OPEN));
    let story = only(scene.stories());
    assert_eq!(story.second, None);
    assert_eq!(story.open_peer, None);
    assert_eq!(story.first.peer, None);
}

#[test]
fn the_end_that_ended_first_is_first_though_it_was_told_second() {
    let mut scene = Scene::new();
    let (c, s) = (loopback(1), opposite(&loopback(1), 2));
    both(&mut scene, &c, &s);
    // The abort waits for its RST while the peer gets it already.
    scene.closes_by(APP, &c, Established, Close, RELEASED);
    scene.receives_reset(2, Established);
    scene.closes(&s, Established, Close, error(104, OPEN));
    scene.sends_reset(1, Close, tcptrace_model::ResetReason::TcpAbortOnClose);
    let story = only(scene.stories());
    assert_eq!(story.first.socket.sk, 1);
    assert_eq!(story.first.close, CloseSequence::ResetSent);
    assert_eq!(story.second.unwrap().close, CloseSequence::ResetReceived);
}

#[test]
fn an_open_peer_is_told_after_a_second() {
    let mut scene = Scene::new();
    let (c, s) = (loopback(1), opposite(&loopback(1), 2));
    both(&mut scene, &c, &s);
    scene.closes_by(APP, &c, Established, FinWait1, RELEASED);
    scene.goes(&s, Established, CloseWait);
    scene.goes(&c, FinWait1, FinWait2);
    scene.enters(&c, 9, tcptrace_model::Phase::FinWait2);
    scene.closes(&c, FinWait2, Close, ORPHAN);
    scene.advance(900 * MS);
    assert_eq!(scene.stories(), []);
    scene.advance(100 * MS);
    let story = only(scene.stories());
    let (peer, state) = story.open_peer.unwrap();
    assert_eq!((peer.sk, state), (2, CloseWait));
    // The other end has a story of its own, and still knows its peer.
    scene.wait(S);
    scene.closes_by(APP, &s, CloseWait, LastAck, RELEASED);
    scene.closes(&s, LastAck, Close, ORPHAN);
    let story = only(scene.stories());
    assert_eq!(story.first.socket.sk, 2);
    assert_eq!(story.first.peer.unwrap().sk, 1);
    assert_eq!(story.second, None);
}

#[test]
fn the_end_of_the_trace_tells_what_waits() {
    let mut scene = Scene::new();
    let (c, s) = (loopback(1), opposite(&loopback(1), 2));
    both(&mut scene, &c, &s);
    scene.closes(&c, Established, Close, error(104, OPEN));
    scene.told();
    scene.finish();
    let story = only(scene.stories());
    assert_eq!(story.open_peer.unwrap().1, Established);
}

#[test]
fn ends_in_two_namespaces() {
    let mut scene = Scene::new();
    let c = socket(1);
    let s = Socket {
        netns: Some(CONTAINER),
        ..opposite(&c, 2)
    };
    both(&mut scene, &c, &s);
    client_closes_first(&mut scene, &c, &s);
    let story = only(scene.stories());
    assert_eq!(story.second.unwrap().socket.netns, Some(CONTAINER));
    assert_eq!(story.first.peer.unwrap().netns, Some(CONTAINER));
}

#[test]
fn loopback_of_another_namespace_is_another_connection() {
    for (local, remote) in [
        ("127.0.0.1:40001", "127.0.0.1:80"),
        ("[::1]:40001", "[::1]:80"),
        ("10.0.0.1:40001", "10.0.0.1:80"),
    ] {
        let mut scene = Scene::new();
        let c = Socket {
            local: address(local),
            remote: address(remote),
            netns: Some(HOST),
            ..socket(1)
        };
        let s = Socket {
            netns: Some(CONTAINER),
            ..opposite(&c, 2)
        };
        both(&mut scene, &c, &s);
        scene.closes(&c, Established, Close, error(104, OPEN));
        assert_eq!(only(scene.stories()).first.peer, None);
    }
}

#[test]
fn a_mapped_address_has_the_same_peer() {
    let mut scene = Scene::new();
    let c = loopback(1);
    let s = Socket {
        local: address("[::ffff:127.0.0.1]:80"),
        remote: address("[::ffff:127.0.0.1]:40001"),
        ..socket(2)
    };
    both(&mut scene, &c, &s);
    client_closes_first(&mut scene, &c, &s);
    assert!(only(scene.stories()).second.is_some());
}

#[test]
fn which_of_two_namespaces_cannot_be_told() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    for (sk, netns) in [(2, CONTAINER), (3, CONTAINER + 1)] {
        scene.accepts(&Socket {
            netns: Some(netns),
            ..opposite(&c, sk)
        });
    }
    scene.closes(&c, Established, Close, error(104, OPEN));
    assert_eq!(only(scene.stories()).first.peer, None);
}

#[test]
fn a_self_connected_socket_has_no_other_end() {
    let mut scene = Scene::new();
    let c = Socket {
        local: address("127.0.0.1:80"),
        remote: address("127.0.0.1:80"),
        ..socket(1)
    };
    scene.connects(&c);
    scene.closes(&c, Established, Close, error(104, OPEN));
    let story = only(scene.stories());
    assert_eq!(story.first.peer, None);
    assert_eq!(story.open_peer, None);
}

#[test]
fn an_open_peer_that_was_told_is_not_the_next_connections() {
    let mut scene = Scene::new();
    let (c, s) = (loopback(1), opposite(&loopback(1), 2));
    both(&mut scene, &c, &s);
    scene.closes(&c, Established, Close, error(104, OPEN));
    // The same ports again, while the other end of the first still lingers.
    let next = Socket { sk: 3, ..c };
    scene.connects(&next);
    scene.closes(&next, Established, Close, error(104, OPEN));
    let story = only(scene.stories());
    assert_eq!((story.first.socket.sk, story.first.peer), (3, None));
    scene.advance(S);
    assert_eq!(only(scene.stories()).open_peer.unwrap().0.sk, 2);
    let third = Socket { sk: 4, ..c };
    scene.connects(&third);
    scene.closes(&third, Established, Close, error(104, OPEN));
    assert_eq!(only(scene.stories()).first.peer, None);
}
