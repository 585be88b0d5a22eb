//! Stories, to the character.

use tcptrace_model::{
    Certainty, CloseCause, CloseSequence, Connection, OwnerSource, Phase, Role, Story,
};

use super::*;

fn told(story: Story) -> String {
    lines(TERMINAL, &[Finding::Story(Box::new(story))]).join("\n")
}

/// What is told behind the addresses, on one line.
fn body(story: Story) -> String {
    let pipe = Layout {
        width: None,
        ..TERMINAL
    };
    let line = lines(pipe, &[Finding::Story(Box::new(story))]).join("\n");
    let (_, body) = line.split_once("8000  ").unwrap();
    body.to_owned()
}

#[test]
fn both_ends_are_one_story_with_the_client_left() {
    let expected = "\
* 127.0.0.1:40000 -> 127.0.0.1:8000  client curl[812] closed first with close();
  server nginx[77] followed 1.20ms later with close(). ESTABLISHED 35.1ms.
  TIME_WAIT (60s) at the client, 127.0.0.1:40000.";
    let (client, server) = (samples::client_first(), samples::server_second());
    assert_eq!(
        told(samples::story(client.clone(), Some(server.clone()))),
        expected
    );
    // Whichever ended first.
    assert_eq!(told(samples::story(server, Some(client))), expected);
}

#[test]
fn in_a_pipe_a_story_is_one_line() {
    let story = samples::story(samples::client_first(), Some(samples::server_second()));
    assert!(!body(story).contains('\n'));
}

#[test]
fn of_an_end_that_was_not_traced_only_what_is_proven_is_told() {
    assert_eq!(
        body(samples::story(samples::client_first(), None)),
        "client curl[812] closed first with close(); server followed 1.23ms later. \
         ESTABLISHED 35.1ms. TIME_WAIT (60s) at the client, 127.0.0.1:40000."
    );
    assert_eq!(
        body(samples::story(samples::server_second(), None)),
        "client closed first; server nginx[77] followed 1.17ms later with close(). \
         ESTABLISHED 35.1ms."
    );
}

#[test]
fn without_roles_ends_are_called_by_their_address() {
    let end = Connection {
        role: Role::Unknown,
        ..samples::client_first()
    };
    assert_eq!(
        told(samples::story(end, None)),
        "\
* 127.0.0.1:40000 -- 127.0.0.1:8000  127.0.0.1:40000 curl[812] closed first with
  close(); the peer followed 1.23ms later. ESTABLISHED 35.1ms. TIME_WAIT (60s)
  at 127.0.0.1:40000."
    );
}

#[test]
fn a_minisocket_that_acknowledged_the_second_fin_is_in_time_wait() {
    let client = Connection {
        minisocket: Some(Phase::FinWait2),
        ..samples::client_first()
    };
    let text = body(samples::story(client, Some(samples::server_second())));
    assert!(
        text.ends_with("TIME_WAIT (60s) at the client, 127.0.0.1:40000."),
        "{text}"
    );
}

#[test]
fn crossed_fins_are_nobodys_first() {
    assert_eq!(
        body(samples::simultaneous()),
        "both ends closed at once, their FINs crossed: client curl[812] with close(), \
         server nginx[77] with close(). ESTABLISHED 1.00ms. TIME_WAIT (60s) at both ends."
    );
}

#[test]
fn a_reset_names_who_sent_it_and_why_and_what_the_other_got() {
    assert_eq!(
        body(samples::reset()),
        "server nginx[77] reset it with close() and data unread; \
         client curl[812] got the RST (ECONNRESET). ESTABLISHED 2.50s."
    );
}

#[test]
fn a_reset_after_the_first_fin_is_told_behind_it() {
    let client = Connection {
        close: CloseSequence::ResetReceived,
        error: 104,
        minisocket: None,
        ..samples::client_first()
    };
    let server = Connection {
        close: CloseSequence::ResetSent,
        cause: CloseCause::UnreadDataReset,
        closed_by: Some(samples::process(99, "worker")),
        ..samples::server_second()
    };
    assert_eq!(
        body(samples::story(client, Some(server))),
        "client curl[812] closed first with close(); \
         server nginx[77] reset it with close() and data unread, called by worker[99]; \
         client got the RST (ECONNRESET). ESTABLISHED 35.1ms."
    );
}

#[test]
fn data_after_the_close_resets_from_the_end_that_had_closed() {
    let client = Connection {
        close: CloseSequence::ResetSent,
        minisocket: None,
        reset: Some(tcptrace_model::ResetSeen {
            ts_ns: 0,
            direction: tcptrace_model::Direction::Sent,
            reason: Some(tcptrace_model::ResetReason::TcpAbortOnData),
        }),
        ..samples::client_first()
    };
    assert_eq!(
        body(samples::story(client, None)),
        "client curl[812] closed first with close(); \
         then reset it because data came after the close. ESTABLISHED 35.1ms."
    );
}

#[test]
fn a_shutdown_leaves_the_connection_half_closed_for_a_time() {
    assert_eq!(
        body(samples::half_closed()),
        "client curl[812] closed first with shutdown(); \
         server nginx[77] followed 2.00s later with close(). \
         ESTABLISHED 35.1ms, then half-closed 2.00s. \
         TIME_WAIT (60s) at the client, 127.0.0.1:40000."
    );
}

#[test]
fn a_refused_connection_was_never_established() {
    assert_eq!(
        body(samples::refused()),
        "client curl[812] was refused: server answered with a RST (ECONNREFUSED)."
    );
}

#[test]
fn a_killed_process_and_a_peer_that_has_not_closed() {
    assert_eq!(
        body(samples::killed()),
        "client curl[812] closed first because signal 9 (SIGKILL) ended its process. \
         Server nginx[77] (owner of the listener) is still open: CLOSE_WAIT. \
         ESTABLISHED 35.1ms. At the client, 127.0.0.1:40000, the socket is gone and the \
         kernel waits for the peer's FIN (FIN_WAIT2*)."
    );
}

#[test]
fn every_other_way_to_end_has_its_words() {
    let ended = |close, cause, error| {
        let end = Connection {
            close,
            cause,
            error,
            exit_status: Some(3),
            ..samples::connection(Role::Server, &[], 0)
        };
        body(samples::story(end, None))
    };
    for (close, cause, error, words) in [
        (
            CloseSequence::LocalFirst,
            CloseCause::Exit,
            0,
            "server nginx[77] closed first because its process exited (status 3).",
        ),
        (
            CloseSequence::TimedOut,
            CloseCause::Keepalive,
            110,
            "server nginx[77] gave up because keepalive probes were not answered (ETIMEDOUT).",
        ),
        (
            CloseSequence::TimedOut,
            CloseCause::UserTimeout,
            110,
            "server nginx[77] gave up because TCP_USER_TIMEOUT ran out (ETIMEDOUT).",
        ),
        (
            CloseSequence::TimedOut,
            CloseCause::RetransmitTimeout,
            113,
            "server nginx[77] gave up because the peer acknowledged nothing, however often it \
             was sent again (EHOSTUNREACH).",
        ),
        (
            CloseSequence::Aborted,
            CloseCause::SocketDestroyed,
            103,
            "server nginx[77] was cut off because the socket was destroyed, as ss -K does \
             (ECONNABORTED).",
        ),
        (
            CloseSequence::ResetSent,
            CloseCause::LingerReset,
            0,
            "server nginx[77] reset it with close() and SO_LINGER 0.",
        ),
        (
            CloseSequence::ResetSent,
            CloseCause::ListenerClosed,
            0,
            "server nginx[77] reset it because its listener was closed before anybody had \
             accepted it.",
        ),
        (
            CloseSequence::ResetReceived,
            CloseCause::Peer,
            32,
            "client reset it: server nginx[77] got a RST (EPIPE).",
        ),
        (
            CloseSequence::NeverEstablished,
            CloseCause::Close,
            0,
            "server nginx[77] ended it before the handshake was complete, with close().",
        ),
        (
            CloseSequence::Unknown,
            CloseCause::Unknown,
            0,
            "how server nginx[77] ended is not known.",
        ),
    ] {
        assert_eq!(ended(close, cause, error), words);
    }
}

#[test]
fn what_ended_it_after_the_first_fin_is_not_taken_for_the_cause_of_the_fin() {
    let end = |close, cause, error| {
        let end = Connection {
            close,
            cause,
            error,
            minisocket: None,
            ..samples::client_first()
        };
        body(samples::story(end, None))
    };
    assert_eq!(
        end(CloseSequence::TimedOut, CloseCause::RetransmitTimeout, 110),
        "client curl[812] closed first; client gave up because the peer acknowledged nothing, \
         however often it was sent again (ETIMEDOUT). ESTABLISHED 35.1ms."
    );
    assert_eq!(
        end(CloseSequence::TimedOut, CloseCause::Close, 0),
        "client curl[812] closed first with close(); client gave up because the peer did not \
         answer. ESTABLISHED 35.1ms."
    );
    assert_eq!(
        end(CloseSequence::ResetReceived, CloseCause::Peer, 104),
        "client curl[812] closed first; server reset it: client got a RST (ECONNRESET). \
         ESTABLISHED 35.1ms."
    );
}

#[test]
fn whoever_closed_in_place_of_the_owner_is_named() {
    let end = |cause| {
        let end = Connection {
            cause,
            signal: Some(15),
            closed_by: Some(samples::process(99, "worker")),
            ..samples::client_first()
        };
        body(samples::story(end, None))
    };
    let text = end(CloseCause::Close);
    assert!(
        text.contains("first with close(), called by worker[99];"),
        "{text}"
    );
    let text = end(CloseCause::Signal);
    assert!(
        text.contains("because signal 15 (SIGTERM) ended worker[99];"),
        "{text}"
    );
}

#[test]
fn an_owner_that_did_not_open_the_socket_itself_comes_with_the_source() {
    for (source, words) in [
        (OwnerSource::Connect, "client x[5] closed"),
        (OwnerSource::Accept, "client x[5] closed"),
        (OwnerSource::Proc, "client x[5] (by /proc) closed"),
        (
            OwnerSource::Closer,
            "client x[5] (known as its closer) closed",
        ),
        (
            OwnerSource::Listener,
            "client x[5] (owner of the listener) closed",
        ),
    ] {
        let end = Connection {
            owner: Some(samples::owner(5, "x", source)),
            ..samples::client_first()
        };
        let text = body(samples::story(end, None));
        assert!(text.starts_with(words), "{text}");
    }
}

#[test]
fn what_is_not_certain_has_a_question_mark_and_says_why() {
    let end = Connection {
        certainty: Certainty::Inferred,
        doubts: samples::doubts(&[Doubt::RecordsLost, Doubt::BeforeTrace]),
        ..samples::server_second()
    };
    assert_eq!(
        told(samples::story(end.clone(), None)),
        "\
? 127.0.0.1:40000 -> 127.0.0.1:8000  client closed first; server nginx[77]
  followed 1.17ms later with close(). ESTABLISHED 35.1ms. Probably so, not seen
  in full: records were lost, older than the trace."
    );
    let unknown = Connection {
        certainty: Certainty::Unknown,
        ..end.clone()
    };
    let text = body(samples::story(unknown, None));
    assert!(
        text.ends_with("Not known for sure: records were lost, older than the trace."),
        "{text}"
    );
    let exact = Connection {
        certainty: Certainty::Exact,
        doubts: samples::doubts(&[Doubt::BeforeTrace]),
        ..end
    };
    assert!(told(samples::story(exact.clone(), None)).starts_with("* "));
    let text = body(samples::story(exact, None));
    assert!(
        text.ends_with("Seen in part: older than the trace."),
        "{text}"
    );
}

#[test]
fn a_time_wait_that_was_forbidden_is_told() {
    let client = Connection {
        minisocket: None,
        never_entered: true,
        ..samples::client_first()
    };
    let text = body(samples::story(client, None));
    assert!(
        text.ends_with("No TIME_WAIT at the client, 127.0.0.1:40000 (tcp_max_tw_buckets)."),
        "{text}"
    );
}

#[test]
fn a_hostile_name_stays_text() {
    let end = Connection {
        owner: Some(samples::owner(5, "a\x1b[2J\n", OwnerSource::Connect)),
        ..samples::client_first()
    };
    let text = told(samples::story(end, None));
    assert!(text.contains("client a\\x1b[2J\\x0a[5] closed"), "{text}");
}

#[test]
fn long_addresses_wrap_and_times_indent() {
    let mut client = samples::client_first();
    client.socket.local = "[2001:db8:1111:2222:3333:4444:5555:6666]:40000"
        .parse()
        .unwrap();
    client.socket.remote = "[2001:db8:1111:2222:3333:4444:5555:7777]:8000"
        .parse()
        .unwrap();
    let layout = Layout {
        timestamp: true,
        ..TERMINAL
    };
    let text = lines(
        layout,
        &[Finding::Story(Box::new(samples::story(client, None)))],
    );
    assert_eq!(
        text,
        [
            "   0.068230 * [2001:db8:1111:2222:3333:4444:5555:6666]:40000 ->",
            "              [2001:db8:1111:2222:3333:4444:5555:7777]:8000  client curl[812]",
            "              closed first with close(); server followed 1.23ms later.",
            "              ESTABLISHED 35.1ms. TIME_WAIT (60s) at the client,",
            "              [2001:db8:1111:2222:3333:4444:5555:6666]:40000.",
        ]
    );
}

#[test]
fn colour_takes_no_columns() {
    let story = || samples::story(samples::client_first(), Some(samples::server_second()));
    let coloured = written(
        Layout {
            colour: true,
            ..TERMINAL
        },
        &[Finding::Story(Box::new(story()))],
    );
    assert!(coloured.contains("\x1b[1m127.0.0.1:40000 -> 127.0.0.1:8000\x1b[0m  client"));
    let plain = coloured.replace("\x1b[1m", "").replace("\x1b[0m", "");
    assert!(plain.trim_end().ends_with(&told(story())), "{plain}");
}
