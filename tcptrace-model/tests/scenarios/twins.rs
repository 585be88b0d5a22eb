//! Connections of several namespaces with the same addresses and ports.

use tcptrace_model::{
    Socket,
    TcpState::{Close, CloseWait, Established, FinWait1, FinWait2, LastAck},
};

use crate::scene::{APP, CONTAINER, HOST, ORPHAN, OTHER, RELEASED, Scene, opposite, socket};

fn closes_first(scene: &mut Scene, end: &Socket) {
    scene.closes_by(APP, end, Established, FinWait1, RELEASED);
    scene.goes(end, FinWait1, FinWait2);
    scene.closes(end, FinWait2, Close, ORPHAN);
}

fn closes_second(scene: &mut Scene, end: &Socket) {
    scene.goes(end, Established, CloseWait);
    scene.closes_by(OTHER, end, CloseWait, LastAck, RELEASED);
    scene.closes(end, LastAck, Close, ORPHAN);
}

/// The ends of a connection between two namespaces; others may have the same addresses.
fn between(sk: u64, netns: [u32; 2]) -> [Socket; 2] {
    let client = Socket {
        netns: Some(netns[0]),
        sk,
        ..socket(1)
    };
    let server = Socket {
        netns: Some(netns[1]),
        ..opposite(&client, sk + 1)
    };
    [client, server]
}

#[test]
fn ends_in_two_namespaces_are_joined() {
    let mut scene = Scene::new();
    let [client, server] = between(1, [HOST, CONTAINER]);
    scene.connects(&client);
    scene.accepts(&server);
    closes_first(&mut scene, &client);
    closes_second(&mut scene, &server);
    let told = scene.connections();
    let peers: Vec<_> = told
        .iter()
        .map(|end| end.peer.map(|peer| peer.sk))
        .collect();
    assert_eq!(peers, [Some(1), Some(2)]);
}

#[test]
fn ends_with_twins_are_not_joined_even_when_one_is_left() {
    let mut scene = Scene::new();
    let [c1, s1] = between(1, [HOST, CONTAINER]);
    let [c2, s2] = between(3, [HOST + 1, CONTAINER + 1]);
    for (client, server) in [(&c1, &s1), (&c2, &s2)] {
        scene.connects(client);
        scene.accepts(server);
    }
    closes_first(&mut scene, &c1);
    closes_second(&mut scene, &s1);
    let mut told = scene.connections();
    closes_first(&mut scene, &c2);
    closes_second(&mut scene, &s2);
    told.extend(scene.connections());
    assert_eq!(told.len(), 4);
    assert!(told.iter().all(|end| end.peer.is_none()), "{told:?}");
}
