//! K19: the most TIME_WAITs that a namespace may have.

use tcptrace_model::{Finding, TcpState, TimeWaitEnd};

use super::{HalfClosed, PORT, SERVER, half_closed};
use crate::lab::{actor::Options, experiment::Experiment, reading::Source};

const LIMIT: u32 = 5;
/// TIME_WAITs that there are when the limit is set.
const BEFORE: u32 = 3;
/// Closes after that.
const CLOSES: u32 = 12;

pub(super) const K19: Experiment = Experiment {
    id: "K19",
    name: "too-many",
    claims: &["K19"],
    title: "Beyond tcp_max_tw_buckets, closing leaves no TIME_WAIT",
    says: "Beyond tcp_max_tw_buckets there is no TIME_WAIT: the overflow is counted, and nothing stays behind.",
    why: "inet_twsk_alloc() (net/ipv4/inet_timewait_sock.c, v6.18) makes no minisocket when the namespace has \
          tcp_max_tw_buckets of them; tcp_time_wait() counts TCPTimeWaitOverflow and closes the socket all the \
          same. Nobody is told, and the close looks like any other. What is lost is the protection: a late \
          segment meets no TIME_WAIT, and if the last ACK was lost, the peer's FIN is answered with a RST.",
    condition: None,
    seconds: 4,
    play: |stage| {
        let server = stage.actor("server")?;
        let client = stage.actor("client")?;
        let listener = server.listening(SERVER, Options::NONE)?;
        let overflow_before = stage.counter("TcpExt", "TCPTimeWaitOverflow")?;
        let first = half_closed(stage, &listener, &client, SERVER, BEFORE)?;
        client.close_many(first.at_client)?;
        stage.until("the first TIME_WAITs", || {
            let waiting = stage.count(PORT, TcpState::TimeWait)?;
            Ok((waiting == u64::from(BEFORE)).then_some(()))
        })?;
        stage.set_sysctl("net.ipv4.tcp_max_tw_buckets", LIMIT)?;
        let HalfClosed {
            at_client,
            at_server,
        } = half_closed(stage, &listener, &client, SERVER, CLOSES)?;
        client.close_many(at_client)?;
        server.close_many(at_server)?;
        // The clients come through LAST_ACK: all of them have ended when the trace has told so.
        stage.observed().wait_for(
            "the end of a client's connection",
            (BEFORE + CLOSES) as usize,
            stage.cancel(),
            |finding| match finding {
                Finding::Connection(found) if found.socket.remote.port() == PORT => Some(()),
                _ => None,
            },
        )?;
        let waiting = stage.count(PORT, TcpState::TimeWait)?;
        stage
            .reading(format!(
                "TIME_WAITs after {BEFORE} closes and {CLOSES} more"
            ))
            .claim(u64::from(LIMIT))
            .measured(waiting, Source::SockDiag);
        let overflow = stage.counter("TcpExt", "TCPTimeWaitOverflow")? - overflow_before;
        stage
            .reading("TCPTimeWaitOverflow")
            .claim(u64::from(BEFORE + CLOSES - LIMIT))
            .measured(overflow, Source::Counter);
        let in_use = stage.socket_count("inuse")?;
        stage
            .reading("other sockets beside the listener")
            .claim(0_u64)
            .measured(in_use.saturating_sub(1), Source::Counter);
        let never_entered = stage.observed().wait_for(
            "a TIME_WAIT that never came to be",
            1,
            stage.cancel(),
            |finding| match finding {
                Finding::TimeWait(found) if found.end == TimeWaitEnd::NeverEntered => {
                    Some(found.clone())
                }
                _ => None,
            },
        )?;
        for found in never_entered {
            stage.show(Finding::TimeWait(found));
        }
        let told = stage.observed().all(|finding| match finding {
            Finding::Connection(found) if found.never_entered => Some(()),
            _ => None,
        });
        stage
            .reading("connections told to have got none")
            .expect(u64::from(BEFORE + CLOSES - LIMIT))
            .measured(told.len() as u64, Source::Finding);
        Ok(())
    },
};
