//! Owns the sockets on one port as sock_diag lists them: without privileges, and without their options.

use super::sock_diag;
pub use super::sock_diag::Listed;

/// The sockets with the local port `port` in the namespace of the calling thread; those that are only bound
/// from 6.8 on. `boottime` reads CLOCK_BOOTTIME in ns.
///
/// # Errors
/// One sentence: the kernel does not list sockets.
pub fn list_here(port: u16, boottime: &dyn Fn() -> u64) -> Result<Vec<Listed>, String> {
    sock_diag::with_local_port(Some(port), boottime).map_err(|trouble| trouble.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn only_the_sockets_on_the_port_are_listed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();

        let mut remotes: Vec<_> = list_here(address.port(), &|| 0)
            .unwrap()
            .into_iter()
            .map(|one| {
                assert_eq!(one.local, address);
                one.remote
            })
            .collect();
        remotes.sort_unstable();
        let mut expected = ["0.0.0.0:0".parse().unwrap(), client.local_addr().unwrap()];
        expected.sort_unstable();
        assert_eq!(remotes, expected);

        let other = other.local_addr().unwrap();
        let of_other = list_here(other.port(), &|| 0).unwrap();
        assert_eq!(of_other.len(), 1);
        assert_eq!(of_other[0].local, other);
        drop(server);
    }
}
