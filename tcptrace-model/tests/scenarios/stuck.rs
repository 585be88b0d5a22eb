//! Connections that stay in a state for long.

use tcptrace_model::{
    Certainty, Doubt, Finding, Settings, Stuck,
    TcpState::{
        Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv,
        SynSent,
    },
};

use crate::scene::{APP, MINUTE, MS, RELEASED, S, Scene, process, socket};

fn stuck(scene: &mut Scene) -> Vec<Stuck> {
    scene
        .told()
        .into_iter()
        .filter_map(|finding| match finding {
            Finding::Stuck(told) => Some(*told),
            _ => None,
        })
        .collect()
}

#[test]
fn every_passing_state_and_no_other() {
    for (state, passes) in [
        (SynSent, true),
        (SynRecv, true),
        (FinWait1, true),
        (FinWait2, true),
        (CloseWait, true),
        (LastAck, true),
        (Closing, true),
        (Established, false),
    ] {
        let mut scene = Scene::new();
        let c = socket(1);
        // Whatever it was in before; LISTEN would make it another socket.
        let before = if state == SynRecv { Listen } else { Close };
        scene.goes_by(APP, &c, before, state);
        scene.advance(2 * MINUTE);
        assert_eq!(stuck(&mut scene).len(), usize::from(passes), "{state:?}");
    }
}

#[test]
fn once_per_state_after_the_limit() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.connects(&c);
    scene.advance(100 * S);
    scene.goes(&c, Established, CloseWait);
    scene.advance(59 * S);
    assert_eq!(stuck(&mut scene), []);
    scene.advance(S);
    let told = stuck(&mut scene);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].state, CloseWait);
    assert_eq!(told[0].for_ns, 60 * S);
    assert_eq!(told[0].certainty, Certainty::Exact);
    assert_eq!(told[0].owner.unwrap().process, process(APP));
    scene.advance(500 * S);
    assert_eq!(stuck(&mut scene), []);
    scene.closes_by(APP, &c, CloseWait, LastAck, RELEASED);
    scene.advance(61 * S);
    assert_eq!(stuck(&mut scene)[0].state, LastAck);
    assert_eq!(scene.tracker.summary().stuck, 2);
}

#[test]
fn the_limit_is_kept_to_the_second() {
    let mut scene = Scene::with(Settings {
        stuck_after_ns: Some(2500 * MS),
        ..Settings::default()
    });
    let mut told = Vec::new();
    for sk in 1..=50 {
        scene.goes_by(APP, &socket(sk), Close, SynSent);
        scene.advance(100 * MS);
        told.extend(stuck(&mut scene));
    }
    for _ in 0..60 {
        scene.advance(100 * MS);
        told.extend(stuck(&mut scene));
    }
    assert_eq!(told.len(), 50);
    let sks: Vec<_> = told.iter().map(|told| told.socket.sk).collect();
    assert_eq!(sks, (1..=50).collect::<Vec<_>>());
    for told in told {
        assert!((2500 * MS..3700 * MS).contains(&told.for_ns), "{told:?}");
    }
}

#[test]
fn of_unknown_age_it_has_been_stuck_at_least_since_it_was_seen() {
    let mut scene = Scene::new();
    let c = socket(1);
    scene.goes(&c, FinWait2, FinWait2);
    scene.advance(60 * S);
    let told = stuck(&mut scene);
    assert_eq!(told[0].for_ns, 60 * S);
    assert!(told[0].doubts.contains(Doubt::BeforeTrace));
    assert_eq!(told[0].certainty, Certainty::Inferred);
}

#[test]
fn nobody_asked() {
    let mut scene = Scene::with(Settings {
        stuck_after_ns: None,
        ..Settings::default()
    });
    scene.goes_by(APP, &socket(1), Close, SynSent);
    scene.advance(1000 * S);
    assert_eq!(stuck(&mut scene), []);
}
