//! The claims that the lab tries: of operators about TIME_WAIT and bind() (A to D), and of the kernel's sources (K).

/// A claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Such as `A1`.
    pub id: &'static str,
    /// What it says, in one sentence.
    pub says: &'static str,
}

macro_rules! claims {
    ($($id:literal $says:literal)+) => {
        &[$(Claim { id: $id, says: $says }),+]
    };
}

/// All of them, in order.
pub const ALL: &[Claim] = claims! {
    "A1" "A server that closes first and starts again at once cannot bind: EADDRINUSE, because of TIME_WAIT."
    "A2" "A process that exits or is killed by a signal has all its descriptors closed, so a FIN is sent."
    "A3" "Four segments close a connection; a FIN may ride on data, and ACK and FIN may merge into three segments."
    "A4" "While the client has not closed, the server is in FIN_WAIT2 and the client in CLOSE_WAIT: binding again fails, too."
    "A5" "SO_REUSEADDR before bind() solves it; every TCP server should set it."
    "A6" "SO_REUSEADDR lets the same server run several times on different local addresses, never on the same address and port."
    "A7" "TIME_WAIT lasts 2 MSL, and RFC 793 says that the MSL is 2 minutes: 4 minutes."
    "B1" "A server that closes many short connections itself piles up TIME_WAIT until it runs out of sockets."
    "B2" "The default TIME_WAIT is 240 s, and a setting changes it."
    "B3" "If the last ACK is lost, the peer sends its FIN again, and TIME_WAIT answers it."
    "B4" "Old duplicate segments must not enter a new connection with the same addresses and ports: TIME_WAIT keeps them out."
    "B5" "Thousands of sockets in CLOSE_WAIT: the program does not close after its peer did."
    "B6" "A program in CLOSE_WAIT that does not send its FIN leaves the peer in FIN_WAIT2."
    "C1" "Only one side needs TIME_WAIT: the one that closes first."
    "C2" "The RFC forbids only the same pair of sockets, but implementations forbid the whole local port."
    "C3" "With SO_REUSEADDR the server listens again, but a connect from the same pair of sockets fails with EADDRINUSE."
    "C4" "A client is not hurt by its TIME_WAIT: its ports are ephemeral."
    "C5" "Kill the server while the client lives: FIN_WAIT2, and bind() fails; then kill the client: TIME_WAIT, and bind() still fails."
    "C6" "On Linux the server can start again after about half a minute."
    "D1" "A client that closes first can reconnect at once, with or without SO_REUSEADDR."
    "D2" "TIME_WAIT belongs to whoever closes first, server or client."
    "D3" "A socket that only bound, or listened without a connection, leaves no TIME_WAIT."
    "D4" "When bind() to a port fails, the socket is bound to some other port by itself."
    "D5" "SO_REUSEADDR works only with tcp_timestamps = 1."
    "D6" "With SO_REUSEADDR the TIME_WAIT is still there, only ignored."
    "D7" "tcp_tw_reuse, sequence numbers and timestamps decide whether a TIME_WAIT may be taken over."
    "K1" "After the server closed first, binding again fails unless both the old and the new socket have SO_REUSEADDR."
    "K2" "The same with tcp_timestamps 0 and 1: SO_REUSEADDR does not look at timestamps."
    "K3" "A server's connection in FIN_WAIT2 with the client in CLOSE_WAIT follows the same rule."
    "K4" "So does one in ESTABLISHED or CLOSE_WAIT whose listener is closed: it is not about TIME_WAIT."
    "K5" "If the client closes first, TIME_WAIT is on the client's port, and the server's port can be bound without SO_REUSEADDR."
    "K6" "bind(), listen() and close() without a connection leave no TIME_WAIT, and the port can be bound at once."
    "K7" "After a bind() that failed, listen() succeeds: on 0.0.0.0 and a random port."
    "K8" "SO_REUSEADDR set late on the old socket helps; cleared on the listener, earlier connections keep it and later ones have it not; one TIME_WAIT without it blocks."
    "K9" "Two sockets with SO_REUSEADDR can both be bound, but the second listen() fails with EADDRINUSE."
    "K10" "Beside a live listener SO_REUSEADDR does not help; SO_REUSEPORT does, for the same user; a TIME_WAIT with SO_REUSEPORT lets any user in."
    "K11" "0.0.0.0 and 127.0.0.1 collide in either order, 127.0.0.1 and 127.0.0.2 do not, [::] with IPV6_V6ONLY and 0.0.0.0 do not, without it they do."
    "K12" "A bound client may reconnect through its TIME_WAIT at once if timestamps are on, whatever tcp_tw_reuse says; without them connect() fails with EADDRNOTAVAIL."
    "K13" "With one ephemeral port, tcp_tw_reuse 0 refuses, 1 allows, 2 allows on loopback only, after a second; never without timestamps."
    "K14" "A SYN into TIME_WAIT is accepted if its sequence number or its timestamp is newer, else answered with an ACK."
    "K15" "A RST at rcv_nxt ends TIME_WAIT unless tcp_rfc1337 is set; one beside it never; in FIN_WAIT2 it always does."
    "K16" "When both FINs cross, the end goes through CLOSING into TIME_WAIT."
    "K17" "close() with SO_LINGER 0 or with unread data leaves no TIME_WAIT, and the peer gets ECONNRESET."
    "K18" "tcp_fin_timeout up to 60 is how long an orphan stays in FIN_WAIT2; F above 60 gives about 2 (F - 60)."
    "K19" "Beyond tcp_max_tw_buckets there is no TIME_WAIT: the overflow is counted, and nothing stays behind."
    "K20" "TIME_WAIT lasts 60 s and what the timer wheel adds, and many end together."
    "K21" "When a network namespace goes, its TIME_WAITs go with it at once."
    "K22" "Ephemeral ports run out for each destination: another one gives as many more; then bind() to port 0 fails, too."
    "K23" "CLOSE_WAIT lasts as long as the program holds the descriptor; the peer's orphan in FIN_WAIT2 goes after tcp_fin_timeout."
    "K24" "A FIN or ACK that comes again in TIME_WAIT sets the timer to 60 s again; a SYN that is refused does not."
    "K25" "SOCK_DESTROY (ss -K) removes a TIME_WAIT."
    "K26" "A privileged port on a foreign address fails otherwise in IPv4 than in IPv6; shutdown() of a listener keeps the port; a bound client that is reset keeps its port, an accepted connection does not."
};

/// The claim with this id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Claim> {
    ALL.iter().find(|claim| claim.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_is_there_once() {
        let families = [('A', 7), ('B', 6), ('C', 6), ('D', 7), ('K', 26)];
        let ids: Vec<String> = families
            .into_iter()
            .flat_map(|(letter, count)| (1..=count).map(move |number| format!("{letter}{number}")))
            .collect();
        assert_eq!(ALL.iter().map(|claim| claim.id).collect::<Vec<_>>(), ids);
        assert!(find("A7").is_some_and(|claim| claim.says.contains("2 MSL")));
        assert_eq!(find("A8"), None);
    }
}
