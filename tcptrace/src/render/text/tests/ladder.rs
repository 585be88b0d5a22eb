//! Ladders, to the character.

use tcptrace_model::{CloseCause, CloseSequence, Connection, Phase, Role, Story};

use super::*;

/// The drawing alone.
fn drawn(layout: Layout, story: Story) -> String {
    let finding = [Finding::Story(Box::new(story))];
    let with = Layout {
        ladder: true,
        ..layout
    };
    let without = written(layout, &finding);
    let text = written(with, &finding);
    let drawing = text.strip_prefix(&without).unwrap();
    drawing.strip_suffix("\n\n").unwrap().to_owned()
}

/// The drawing on 80 columns, behind a newline: so that it stands in the tests as on a terminal.
fn on_terminal(story: Story) -> String {
    let drawing = drawn(TERMINAL, story);
    assert!(drawing.lines().all(|line| line.len() <= 80), "{drawing}");
    format!("\n{drawing}")
}

#[test]
fn an_orderly_close_with_both_ends() {
    assert_eq!(
        on_terminal(samples::story(
            samples::client_first(),
            Some(samples::server_second())
        )),
        "
         ms  client curl[812]                               server nginx[77]
             127.0.0.1:40000                                127.0.0.1:8000
             ESTABLISHED 35.1ms  |                       |  ESTABLISHED 35.1ms
      0.000  FIN_WAIT1 30.0us    |-------- FIN --------->|
      0.021                      |                       |  CLOSE_WAIT 1.17ms
      0.030  FIN_WAIT2 1.20ms    |<-------- ACK ---------|
      1.200                      |<-------- FIN ---------|  LAST_ACK 41.0us
      1.230  TIME_WAIT           |                       |
      1.241                      |-------- ACK --------->|  CLOSE
             [TIME_WAIT begins (60s)]"
    );
}

#[test]
fn one_end_shows_only_what_it_proves() {
    assert_eq!(
        on_terminal(samples::story(samples::client_first(), None)),
        "
         ms  client curl[812]                               server (not traced)
             127.0.0.1:40000                                127.0.0.1:8000
             ESTABLISHED 35.1ms  |                       |
      0.000  FIN_WAIT1 30.0us    |-------- FIN --------->|
      0.030  FIN_WAIT2 1.20ms    |<-------- ACK ---------|
      1.230  TIME_WAIT           |<-------- FIN ---------|
             [TIME_WAIT begins (60s)]"
    );
    assert_eq!(
        on_terminal(samples::story(samples::server_second(), None)),
        "
         ms  client (not traced)                            server nginx[77]
             127.0.0.1:40000                                127.0.0.1:8000
                                 |                       |  ESTABLISHED 35.1ms
      0.000                      |-------- FIN --------->|  CLOSE_WAIT 1.17ms
      1.179                      |<-------- FIN ---------|  LAST_ACK 41.0us
      1.220                      |-------- ACK --------->|  CLOSE"
    );
}

#[test]
fn ack_and_fin_at_once_may_be_one_segment() {
    let mut client = samples::client_first();
    client.ts_ns -= 1_195_000;
    let drawing = on_terminal(samples::story(client, None));
    let expected = "
      0.030  FIN_WAIT2 1.20ms    |<-------- ACK ---------|
      0.035  TIME_WAIT           |<-------- FIN ---------|
             [TIME_WAIT begins (60s)]
             ACK and FIN came within 50us: one segment (FIN+ACK) or two.";
    assert!(drawing.ends_with(expected), "{drawing}");
}

#[test]
fn a_minisocket_waits_for_the_second_fin() {
    let mut client = Connection {
        minisocket: Some(Phase::FinWait2),
        ..samples::client_first()
    };
    client.ts_ns -= 1_195_000;
    assert_eq!(
        on_terminal(samples::story(client, Some(samples::server_second()))),
        "
         ms  client curl[812]                               server nginx[77]
             127.0.0.1:40000                                127.0.0.1:8000
             ESTABLISHED 35.1ms  |                       |  ESTABLISHED 35.1ms
      0.000  FIN_WAIT1 30.0us    |-------- FIN --------->|
      0.021                      |                       |  CLOSE_WAIT 1.17ms
      0.030  FIN_WAIT2 1.20ms    |<-------- ACK ---------|
      0.035  FIN_WAIT2*          |                       |
      1.200                      |<-------- FIN ---------|  LAST_ACK 41.0us
      1.241                      |-------- ACK --------->|  CLOSE
             [TIME_WAIT begins (60s)]
             * A minisocket in place of the socket, to wait for the peer's FIN."
    );
}

#[test]
fn crossed_fins_end_in_two_time_waits() {
    assert_eq!(
        on_terminal(samples::simultaneous()),
        "
         ms  client curl[812]                               server nginx[77]
             127.0.0.1:40000                                127.0.0.1:8000
             ESTABLISHED 1.00ms  |                       |  ESTABLISHED 1.01ms
      0.000  FIN_WAIT1 40.0us    |-------- FIN --------->|
      0.010                      |<-------- FIN ---------|  FIN_WAIT1 40.0us
      0.040  CLOSING 55.0us      |                       |
      0.050                      |                       |  CLOSING 55.0us
      0.095  TIME_WAIT           |<-------- ACK ---------|
      0.105                      |-------- ACK --------->|  TIME_WAIT
             [TIME_WAIT begins (60s)]                  [TIME_WAIT begins (60s)]"
    );
}

#[test]
fn a_reset_is_drawn_where_it_is_first_seen() {
    // The kernel reports the RST of the server after the client has had it.
    assert_eq!(
        on_terminal(samples::reset()),
        "
         ms  client curl[812]                               server nginx[77]
             127.0.0.1:40000                                127.0.0.1:8000
             ESTABLISHED 2.50s   |                       |  ESTABLISHED 2.50s
      0.000  CLOSE               |<-------- RST ---------|
      0.004                      |                       |  CLOSE"
    );
}

#[test]
fn a_reset_that_was_not_seen_has_a_question_mark() {
    let client = Connection {
        certainty: Certainty::Inferred,
        reset: None,
        ..samples::reset().first
    };
    let drawing = on_terminal(samples::story(client, None));
    assert!(drawing.contains("|<-------- RST? --------|"), "{drawing}");
}

#[test]
fn a_half_close_shows_how_long_it_lasted() {
    assert_eq!(
        on_terminal(samples::half_closed()),
        "
         ms  client curl[812]                               server nginx[77]
             127.0.0.1:40000                                127.0.0.1:8000
             ESTABLISHED 35.1ms  |                       |  ESTABLISHED 35.1ms
      0.000  FIN_WAIT1 30.0us    |-------- FIN --------->|
      0.021                      |                       |  CLOSE_WAIT 2.00s
      0.030  FIN_WAIT2 2.00s     |<-------- ACK ---------|
   2001.200                      |<-------- FIN ---------|  LAST_ACK 41.0us
   2001.230  TIME_WAIT           |                       |
   2001.241                      |-------- ACK --------->|  CLOSE
             [TIME_WAIT begins (60s)]"
    );
}

#[test]
fn a_refused_connection_is_drawn_from_its_beginning() {
    assert_eq!(
        on_terminal(samples::refused()),
        "
         ms  client curl[812]                               server (not traced)
             127.0.0.1:40000                                127.0.0.1:8000
      0.000  SYN_SENT 25.0us     |                       |
      0.025  CLOSE               |<-------- RST ---------|"
    );
}

#[test]
fn an_end_that_is_open_stays_open_in_the_drawing() {
    let drawing = on_terminal(samples::killed());
    let expected = "
      1.230  FIN_WAIT2*          |                       |
                                 |                       |  CLOSE_WAIT (open)
             * A minisocket in place of the socket, to wait for the peer's FIN.";
    assert!(drawing.ends_with(expected), "{drawing}");
}

#[test]
fn what_was_not_seen_to_begin_has_no_time_and_proves_nothing() {
    let server = Connection {
        close: CloseSequence::RemoteFirst,
        ..samples::connection(
            Role::Server,
            &[(TcpState::CloseWait, None), (TcpState::LastAck, Some(200))],
            250,
        )
    };
    assert_eq!(
        on_terminal(samples::story(server, None)),
        "
         ms  client (not traced)                            server nginx[77]
             127.0.0.1:40000                                127.0.0.1:8000
          ?                      |                       |  CLOSE_WAIT
      0.000                      |<-------- FIN ---------|  LAST_ACK 50.0us
      0.050                      |-------- ACK --------->|  CLOSE"
    );
}

#[test]
fn a_gap_in_the_states_proves_nothing() {
    let server = Connection {
        close: CloseSequence::RemoteFirst,
        ..samples::connection(
            Role::Server,
            &[
                (TcpState::Established, Some(-100)),
                (TcpState::LastAck, Some(200)),
            ],
            250,
        )
    };
    let drawing = on_terminal(samples::story(server, None));
    assert!(!drawing.contains("FIN"), "{drawing}");
}

#[test]
fn an_end_by_timeout_has_words_and_no_segment() {
    let server = Connection {
        close: CloseSequence::TimedOut,
        cause: CloseCause::Keepalive,
        error: 110,
        ..samples::connection(Role::Server, &[(TcpState::Established, Some(-100))], 0)
    };
    let drawing = on_terminal(samples::story(server, None));
    assert!(
        drawing.ends_with("      0.000                      |        gave up        |  CLOSE"),
        "{drawing}"
    );
}

#[test]
fn a_rst_that_was_seen_is_drawn_whatever_the_verdict() {
    let server = Connection {
        close: CloseSequence::TimedOut,
        cause: CloseCause::Keepalive,
        reset: samples::reset().second.unwrap().reset,
        ..samples::connection(Role::Server, &[(TcpState::Established, Some(-100))], 0)
    };
    let drawing = on_terminal(samples::story(server, None));
    assert!(
        drawing.ends_with("|<-------- RST ---------|  CLOSE"),
        "{drawing}"
    );
}

#[test]
fn a_narrow_terminal_has_a_narrow_lane() {
    let drawing = drawn(
        Layout {
            width: Some(70),
            ..TERMINAL
        },
        samples::story(samples::client_first(), Some(samples::server_second())),
    );
    assert!(drawing.lines().all(|line| line.len() <= 70), "{drawing}");
    assert!(
        drawing.contains("FIN_WAIT1 30.0us    |--- FIN ---->|"),
        "{drawing}"
    );
}

#[test]
fn long_addresses_stand_one_below_the_other() {
    let mut client = samples::client_first();
    client.socket.local = "[2001:db8:1111:2222:3333:4444:5555:6666]:40000"
        .parse()
        .unwrap();
    client.socket.remote = "[2001:db8:1111:2222:3333:4444:5555:7777]:8000"
        .parse()
        .unwrap();
    let drawing = on_terminal(samples::story(client, None));
    let expected = "
         ms  client curl[812]                               server (not traced)
             [2001:db8:1111:2222:3333:4444:5555:6666]:40000
                                  [2001:db8:1111:2222:3333:4444:5555:7777]:8000
             ESTABLISHED 35.1ms  |                       |
";
    assert!(drawing.starts_with(expected), "{drawing}");
}

#[test]
fn states_have_their_colours() {
    let drawing = drawn(
        Layout {
            colour: true,
            ..TERMINAL
        },
        samples::refused(),
    );
    assert!(
        drawing.contains("\x1b[36mSYN_SENT\x1b[0m 25.0us     |"),
        "{drawing:?}"
    );
}
