//! Files as their authors write them: what they mean, and what is said of wrong ones.

use std::time::Duration;

use tcptrace_model::{TcpState, conflict::KernelVersion};

use super::{
    fault, head,
    program::{Act, Action, Program, Quantity, Wanted},
    read, task,
};
use crate::lab::{
    stage::Kernel,
    value::{Called, Errno, Expected, Value},
};

const HEAD: &str = "title = \"T\"\nclaim = \"C\"\nscript = '''\n";
/// Lines 4 to 6 of the files here.
const BEGIN: &str = "server: listen 127.0.0.1:8000 as listener
client: connect 127.0.0.1:8000 as c
server: accept listener as s
";

fn file(script: &str) -> String {
    format!("{HEAD}{BEGIN}{script}\n'''\n")
}

/// What is said of a file, as `line: what <what is marked> what would be right`, for each fault.
fn told_of(source: &str) -> Vec<String> {
    let Err(faults) = task("my.toml", "my".to_owned(), source) else {
        return Vec::new();
    };
    let told = fault::tell("my.toml", source, faults);
    told.split("\n\n")
        .filter_map(|part| part.strip_prefix("my.toml:"))
        .map(|part| {
            let lines: Vec<&str> = part.lines().collect();
            let [what, text, mark] = lines[..] else {
                return part.to_owned();
            };
            let begin = mark.find('^').unwrap();
            let length = mark.matches('^').count();
            let marked: String = text.chars().skip(begin).take(length).collect();
            let right = mark[begin + length..].trim();
            format!("{what} <{marked}> {right}").trim_end().to_owned()
        })
        .collect()
}

/// What a script means that is right.
fn program(script: &str) -> Program {
    let source = file(script);
    let mut faults = Vec::new();
    let head = head::read(&source, &mut faults);
    let program = read::read(&source, head.lines);
    program.unwrap_or_else(|faults| panic!("{}", fault::tell("my.toml", &source, faults)))
}

fn kernel(major: u16, minor: u16) -> Kernel {
    Kernel {
        version: KernelVersion::of(major, minor),
        release: format!("{major}.{minor}.0"),
        hz: 250,
    }
}

#[test]
fn the_examples_are_understood() {
    for (name, source) in [
        (
            "restart.toml",
            include_str!("../../../../docs/lab/restart.toml"),
        ),
        (
            "port-range.toml",
            include_str!("../../../../docs/lab/port-range.toml"),
        ),
    ] {
        let task = task(name, "x".to_owned(), source)
            .unwrap_or_else(|faults| panic!("{}", fault::tell(name, source, faults)));
        assert!(task.condition.is_some(), "{name}");
        assert!(task.seconds < 10, "{name}: {} s", task.seconds);
    }
}

#[test]
fn every_sentence_is_understood() {
    let program = program(
        "sysctl net.ipv4.ip_local_port_range = 32768 60999  # two numbers
address 10.7.0.1
client: set SO_LINGER=0s TCP_LINGER2=3s on c
client: write 5 bytes to c and hold
client: write 1 byte to c  expect ok or EPIPE
server: read s  expect data
client: shutdown writing of c
server: read s  expect fin
server: shutdown reading of listener
wait c in FIN_WAIT2
wait 2 sockets on port 8000 in LISTEN
pass 1.5s
server: close s
show story of s
measure states of c  expect ESTABLISHED > FIN_WAIT1 > FIN_WAIT2 > CLOSE
measure time_wait of c  \"TIME_WAIT\"  claim between 60s and 63s  expect timer 60s
measure end of c  control expired
measure closed_first of s  expect remote
measure owner of c  expect client or later
measure counter TcpExt.TCPTimeWaitOverflow  expect at least 0
measure sysctl net.ipv4.tcp_timestamps  expect 1
later: become user 1000
later: go on as user 1001
later: socket ipv6 with IPV6_V6ONLY as six
later: bind six to [::1]:8001
later: listen on six
later: connect 127.0.0.1:8000 with SO_REUSEADDR=1 as d  expect ok on 6.14+, EIO on 6.1+, else EADDRNOTAVAIL
later: disconnect d
later: connect d to 127.0.0.1:8000
later: connect 127.0.0.1:8000 7 times as many  claim EADDRNOTAVAIL
measure size of many  expect at most 7
measure rule of failure  expect ports_exhausted
measure holders of failure  expect 0
measure left of holder  expect between 1s and 60s
measure reuseaddr of holder  expect no
measure remedy tcp_tw_reuse of failure  expect yes
later: close many
later: exit with status 3
client: killed by SIGKILL",
    );
    assert_eq!(program.actors, ["server", "client", "later"]);
    assert_eq!(program.sockets, 6);
    assert_eq!(program.lines.len(), 3 + 39);
    let by_line = |line: usize| {
        let step = program.lines.iter().find(|step| step.line == line);
        step.unwrap_or_else(|| panic!("no line {line}"))
    };
    assert_eq!(
        by_line(7).action,
        Action::Sysctl {
            name: "net.ipv4.ip_local_port_range".to_owned(),
            value: "32768 60999".to_owned()
        }
    );
    assert_eq!(
        by_line(16).action,
        Action::AwaitState {
            socket: 1,
            state: TcpState::FinWait2
        }
    );
    assert_eq!(
        by_line(18).action,
        Action::Pass(Duration::from_millis(1500))
    );
    assert_eq!(by_line(22).what, "TIME_WAIT");
    assert_eq!(by_line(25).what, "owner of c");
    assert_eq!(
        by_line(33).what,
        "later: connect 127.0.0.1:8000 with SO_REUSEADDR=1 as d"
    );
    assert_eq!(by_line(44).action, Action::Act(2, Act::Exit(3)));
    assert!(matches!(
        by_line(42).action,
        Action::Measure(Quantity::Remedy("tcp_tw_reuse"))
    ));
    let judgement = by_line(33).judgement.as_ref().unwrap();
    for ((major, minor), expected) in [
        ((6, 18), Called::Ok(())),
        ((6, 14), Called::Ok(())),
        ((6, 12), Err(Errno(5))),
        ((5, 10), Err(Errno(99))),
    ] {
        assert_eq!(
            judgement.expected_of(&kernel(major, minor)),
            Some(Expected::from(expected)),
            "{major}.{minor}"
        );
    }
    let judgement = by_line(22).judgement.as_ref().unwrap();
    let minute = Duration::from_secs(60);
    assert_eq!(
        judgement.expected_of(&kernel(6, 18)),
        Some(Expected::between(minute, Duration::from_millis(63_048)))
    );
    assert!(matches!(
        &judgement.claimed,
        Some((Wanted::Plain(Expected::Between(..)), true))
    ));
}

#[test]
fn a_reading_says_what_it_is_of() {
    let program =
        program("again: bind 127.0.0.1:8000  \"bind() # 2\"  claim EADDRINUSE # \"not this\"");
    let step = program.lines.last().unwrap();
    assert_eq!((step.line, step.what.as_str()), (7, "bind() # 2"));
    let wanted = Wanted::from(Value::from(Errno(98)));
    let judgement = step.judgement.as_ref().unwrap();
    assert_eq!(judgement.claimed, Some((wanted, true)));
    assert_eq!(judgement.expected_of(&kernel(6, 18)), None);
}

#[test]
fn a_wrong_line_is_told_with_what_would_be_right() {
    for (script, told) in WRONG {
        assert_eq!(told_of(&file(script)), [*told], "{script}");
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once_and_nothing_for_it_to_blame() {
    let source = file(
        "servr: accept listener as t
wait t in TIME_WAT
x: bind 127.0.0.1 as b
measure port of b expect 1
measure rule of failure expect port_heldd",
    );
    assert_eq!(
        told_of(&source),
        [
            "7: listener is a socket of server, not of servr <listener> server: …",
            "8: no state is called TIME_WAT <TIME_WAT> did you mean TIME_WAIT?",
            "9: 127.0.0.1 is not an address with a port <127.0.0.1> such as 127.0.0.1:8000",
            "11: port_heldd is no rule <port_heldd> did you mean port_held?",
        ]
    );
}

#[test]
fn a_wrong_head_is_told_with_what_would_be_right() {
    for (source, told) in [
        (
            "title = \"T\"\nclam = \"C\"\nscript = '''\npass 1s\n'''",
            vec![
                "1: claim is missing: claim = \"What is to be tried, in one sentence\"",
                "2: clam means nothing here <clam> did you mean claim?",
            ],
        ),
        (
            "title = 1\nclaim = \"C\"\nscript = '''\nx: bind 127.0.0.1:1 claim ok\n'''",
            vec!["1: title is a text of at least one word <1> title = \"…\""],
        ),
        (
            "title = \"T\"\nclaim = \"C\"\nscript = '''\npass 1s\n'''",
            vec![
                "3: no line of the script has a claim <script> the verdict is made of them, such as: claim EADDRINUSE",
            ],
        ),
        (
            "title = \"T\"\nclaim = \"C\"\nsysctl.kernel.x = 1\nscript = '''\nx: bind 127.0.0.1:1 claim ok\n'''",
            vec![
                "3: kernel.x is no sysctl of a network namespace <x> such as net.ipv4.tcp_tw_reuse",
            ],
        ),
    ] {
        assert_eq!(told_of(source), told, "{source}");
    }
    let told = told_of("title = \"T\nclaim = \"C\"\n");
    assert!(told[0].starts_with("1: not TOML: "), "{told:?}");
    assert_eq!(told.len(), 1, "{told:?}");
}

/// Wrong lines after [`BEGIN`], and what is said of them.
const WRONG: &[(&str, &str)] = &[
    (
        "server: acept listener as t",
        "7: no actor can acept <acept> did you mean accept?",
    ),
    (
        "server: accept listner as t",
        "7: no socket is called listner so far <listner> did you mean listener?",
    ),
    (
        "server: accept client as t",
        "7: no socket is called client so far <client> that is an actor; sockets get their names by `as NAME`",
    ),
    (
        "client: close s",
        "7: s is a socket of server, not of client <s> server: …",
    ),
    (
        "server: close s\nserver: write 5 bytes to s",
        "8: s was closed in line 7 <s>",
    ),
    (
        "server: accept s",
        "7: s is one end of a connection, not a listener <s>",
    ),
    (
        "wait listener in LISTEN",
        "7: listener is a listener, not one end of a connection <listener>",
    ),
    (
        "server: bind 127.0.0.1 as b",
        "7: 127.0.0.1 is not an address with a port <127.0.0.1> such as 127.0.0.1:8000",
    ),
    (
        "server: bind ::1:8000",
        "7: ::1:8000 is not an address with a port <::1:8000> an IPv6 address is in brackets: [::1]:8000",
    ),
    (
        "server: bind 127.0.0.1:80000",
        "7: 127.0.0.1:80000 is not an address with a port <127.0.0.1:80000> a port is a number from 0 to 65535",
    ),
    (
        "client: connect localhost:8000",
        "7: localhost:8000 is not an address with a port <localhost:8000> such as 127.0.0.1:8000 or [::1]:8000; names are not looked up",
    ),
    (
        "wait s in TIMEWAIT",
        "7: no state is called TIMEWAIT <TIMEWAIT> did you mean TIME_WAIT?",
    ),
    (
        "x: bind 127.0.0.1:8000 claim EADDRINUS",
        "7: no errno is called EADDRINUS <EADDRINUS> did you mean EADDRINUSE?",
    ),
    (
        "x: bind 127.0.0.1:8000 claim fails",
        "7: no errno is called fails <fails> ok, or an errno such as EADDRINUSE",
    ),
    (
        "x: bind 127.0.0.1:8000 clam EADDRINUSE",
        "7: clam is not understood here <clam> did you mean claim?",
    ),
    (
        "x: bind 127.0.0.1:8000 claim ok claim EADDRINUSE",
        "7: this line has said that already <claim> one claim or control, and one expect",
    ),
    (
        "x: bind 127.0.0.1:8000 expect ok on 6.14+",
        "7: the line ends where what older kernels do should be <> a comma, and such as: else EADDRNOTAVAIL",
    ),
    (
        "x: bind 127.0.0.1:8000 expect ok on 6.1+, EIO on 6.14+, else ok",
        "7: 6.14+ is not older than 6.1 <6.14+> the first that fits counts: newest first",
    ),
    (
        "x: bind 127.0.0.1:8000 expect ok on 6.14, else EIO",
        "7: 6.14 is not a kernel version <6.14> such as 6.14+, which is 6.14 and later",
    ),
    (
        "x: bind 127.0.0.1:8000 with SO_REUSEADR",
        "7: no option is called SO_REUSEADR <SO_REUSEADR> did you mean SO_REUSEADDR?",
    ),
    (
        "x: bind 127.0.0.1:8000 with SO_LINGER",
        "7: SO_LINGER cannot be set <SO_LINGER> it has a time: SO_LINGER=0s",
    ),
    (
        "client: connect 127.0.0.1:8000 as c",
        "7: c is the name of the socket of line 5 <c> each has a name of its own",
    ),
    (
        "client: connect 127.0.0.1:8000 as holder",
        "7: holder has a meaning of its own and cannot be a name <holder>",
    ),
    (
        "server: killed by SIGTERM\nserver: bind 127.0.0.1:8001",
        "8: the process of server ended in line 7 <server> a new process has a name of its own",
    ),
    (
        "server: killed by SIGTEM",
        "7: no signal is called SIGTEM <SIGTEM> did you mean SIGTERM?",
    ),
    (
        "a-server-called-so: bind 127.0.0.1:8001",
        "7: a-server-called-so has 18 bytes <a-server-called-so> the kernel keeps 15 of a process's name",
    ),
    (
        "client: close c expect ok",
        "7: this line has no result <expect> calls that may fail have one, and `measure`",
    ),
    (
        "measure cause of s",
        "7: the line ends where `claim`, `control` or `expect` should be <> what is measured is compared with something",
    ),
    (
        "measure causes of s expect close",
        "7: nothing that can be measured is called causes <causes> did you mean cause?",
    ),
    (
        "measure cause of s expect closed",
        "7: closed is no cause <closed> did you mean close?",
    ),
    (
        "measure cause of s expect between 1s and 2s",
        "7: not for this <between> that is for times",
    ),
    (
        "measure time_wait of s expect 60",
        "7: 60 is not a time <60> such as 60s, 1.5s, 200ms, 2min",
    ),
    (
        "measure time_wait of s expect between 60s and 6s",
        "7: this is the shorter of the two <6s>",
    ),
    (
        "measure owner of c expect clint",
        "7: no actor is called clint <clint> did you mean client?",
    ),
    (
        "measure rule of failure expect port_held",
        "7: no call before this line may fail <failure> a bind, listen or connect with, for example: claim EADDRINUSE",
    ),
    (
        "x: bind 127.0.0.1:8000 expect EIO\nmeasure cause of failure expect close",
        "8: failure has no cause <cause> it has: rule, holders, remedy",
    ),
    (
        "measure sockets on port 0 in TIME_WAIT expect 1",
        "7: no socket has port 0 <0> 1 to 65535",
    ),
    (
        "pass 2",
        "7: 2 is not a time <2> such as 60s, 1.5s, 200ms, 2min",
    ),
    (
        "pass 1000s",
        "7: 1000s is longer than the lab waits <1000s> 10min at most",
    ),
    (
        "sysctl kernel.hostname = x",
        "7: kernel.hostname is no sysctl of a network namespace <kernel.hostname> such as net.ipv4.tcp_tw_reuse",
    ),
    (
        "server bind 127.0.0.1:8000",
        "7: no line begins with server <server> an actor has a colon: server:",
    ),
    (
        "wiat c in CLOSE",
        "7: no line begins with wiat <wiat> did you mean wait?",
    ),
    ("wait c until CLOSE", "7: here should be `in` <until>"),
    (
        "measure cause of s \"x expect close",
        "7: this text has no end <\"x expect close> end it with \"",
    ),
];
