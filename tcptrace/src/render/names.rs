//! Owns the names of numbers that the system defines: errors and signals.

use libc::c_int;

/// What a call returns within the kernel when a signal interrupts it: the application gets EINTR, or
/// the call begins anew (include/linux/errno.h, v6.18).
const ERESTARTSYS: c_int = 512;

/// The errors that a TCP socket can end with (`sk_err`): those that the kernel's TCP sets itself, and
/// those that ICMP messages turn into (net/ipv4/icmp.c `icmp_err_convert`, net/ipv6/icmp.c
/// `tab_unreach`, v6.18). And those that bind(), listen(), connect() and accept() return: bind(2),
/// listen(2), connect(2), accept(2).
const ERRORS: [(c_int, &str); 42] = [
    (libc::EPERM, "EPERM"),
    (libc::EINTR, "EINTR"),
    (libc::EIO, "EIO"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::EACCES, "EACCES"),
    (libc::EINVAL, "EINVAL"),
    (libc::EPIPE, "EPIPE"),
    (libc::ENONET, "ENONET"),
    (libc::EPROTO, "EPROTO"),
    (libc::EMSGSIZE, "EMSGSIZE"),
    (libc::ENOPROTOOPT, "ENOPROTOOPT"),
    (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
    (libc::ENETDOWN, "ENETDOWN"),
    (libc::ENETUNREACH, "ENETUNREACH"),
    (libc::ECONNABORTED, "ECONNABORTED"),
    (libc::ECONNRESET, "ECONNRESET"),
    (libc::ENOBUFS, "ENOBUFS"),
    (libc::ETIMEDOUT, "ETIMEDOUT"),
    (libc::ECONNREFUSED, "ECONNREFUSED"),
    (libc::EHOSTDOWN, "EHOSTDOWN"),
    (libc::EHOSTUNREACH, "EHOSTUNREACH"),
    (ERESTARTSYS, "ERESTARTSYS"),
    (libc::EBADF, "EBADF"),
    (libc::EAGAIN, "EAGAIN"),
    (libc::EFAULT, "EFAULT"),
    (libc::EBUSY, "EBUSY"),
    (libc::ENODEV, "ENODEV"),
    (libc::ENFILE, "ENFILE"),
    (libc::EMFILE, "EMFILE"),
    (libc::ENOTSOCK, "ENOTSOCK"),
    (libc::EDESTADDRREQ, "EDESTADDRREQ"),
    (libc::EPROTONOSUPPORT, "EPROTONOSUPPORT"),
    (libc::ESOCKTNOSUPPORT, "ESOCKTNOSUPPORT"),
    (libc::EPFNOSUPPORT, "EPFNOSUPPORT"),
    (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
    (libc::EADDRINUSE, "EADDRINUSE"),
    (libc::EISCONN, "EISCONN"),
    (libc::ENOTCONN, "ENOTCONN"),
    (libc::EALREADY, "EALREADY"),
    (libc::EINPROGRESS, "EINPROGRESS"),
    (libc::ENOSYS, "ENOSYS"),
];

/// The signals of signal(7), without those of real time.
const SIGNALS: [(c_int, &str); 31] = [
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGTRAP, "SIGTRAP"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGKILL, "SIGKILL"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGSTKFLT, "SIGSTKFLT"),
    (libc::SIGCHLD, "SIGCHLD"),
    (libc::SIGCONT, "SIGCONT"),
    (libc::SIGSTOP, "SIGSTOP"),
    (libc::SIGTSTP, "SIGTSTP"),
    (libc::SIGTTIN, "SIGTTIN"),
    (libc::SIGTTOU, "SIGTTOU"),
    (libc::SIGURG, "SIGURG"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGXFSZ, "SIGXFSZ"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGWINCH, "SIGWINCH"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGPWR, "SIGPWR"),
    (libc::SIGSYS, "SIGSYS"),
];

/// `ECONNRESET`, or `errno 200` for one without a name here; `None` for 0, which is no error.
pub(crate) fn error(number: u16) -> Option<String> {
    (number != 0).then(|| {
        name(&ERRORS, number.into()).map_or_else(|| format!("errno {number}"), str::to_owned)
    })
}

/// `SIGKILL`; `None` for one without a name.
pub(crate) fn signal(number: u8) -> Option<&'static str> {
    name(&SIGNALS, number.into())
}

/// The number of the error with this name.
pub(crate) fn error_number(name: &str) -> Option<u16> {
    number(&ERRORS, name).and_then(|number| number.try_into().ok())
}

/// The number of the signal with this name.
pub(crate) fn signal_number(name: &str) -> Option<c_int> {
    number(&SIGNALS, name)
}

/// The names of all errors that have one here.
pub(crate) fn errors() -> impl Iterator<Item = &'static str> {
    ERRORS.iter().map(|(_, name)| *name)
}

/// The names of all signals that have one here.
pub(crate) fn signals() -> impl Iterator<Item = &'static str> {
    SIGNALS.iter().map(|(_, name)| *name)
}

fn number(table: &[(c_int, &'static str)], name: &str) -> Option<c_int> {
    table
        .iter()
        .find(|(_, known)| *known == name)
        .map(|(number, _)| *number)
}

fn name(table: &[(c_int, &'static str)], number: c_int) -> Option<&'static str> {
    table
        .iter()
        .find(|(known, _)| *known == number)
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_their_names_and_unknown_ones_their_number() {
        assert_eq!(error(0), None);
        assert_eq!(error(104).unwrap(), "ECONNRESET");
        assert_eq!(error(110).unwrap(), "ETIMEDOUT");
        assert_eq!(error(98).unwrap(), "EADDRINUSE");
        assert_eq!(error(106).unwrap(), "EISCONN");
        assert_eq!(error(4000).unwrap(), "errno 4000");
    }

    #[test]
    fn signals_have_their_names() {
        assert_eq!(signal(9), Some("SIGKILL"));
        assert_eq!(signal(2), Some("SIGINT"));
        assert_eq!(signal(0), None);
        assert_eq!(signal(34), None);
    }

    #[test]
    fn names_go_to_numbers_and_back() {
        assert_eq!(error_number("EADDRINUSE"), Some(98));
        assert_eq!(error_number("EADDRINUS"), None);
        assert_eq!(signal_number("SIGKILL"), Some(9));
        for name in errors() {
            assert_eq!(error(error_number(name).unwrap()).unwrap(), name);
        }
        assert_eq!(signals().count(), SIGNALS.len());
    }

    #[test]
    fn no_number_is_named_twice() {
        for table in [&ERRORS[..], &SIGNALS] {
            for (index, (number, _)) in table.iter().enumerate() {
                assert!(table[..index].iter().all(|(other, _)| other != number));
            }
        }
    }
}
