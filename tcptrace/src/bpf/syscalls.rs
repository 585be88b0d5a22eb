//! Owns what the tracepoints of system calls hand over: their layout, compared with what the programs
//! read before one of them is attached.

use tcptrace_common::syscall_layout;

use crate::host::tracefs::Tracefs;

/// A field that a program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    offset: usize,
    size: usize,
}

/// The number of the tracepoint `syscalls/name`, once it is certain that it has its number, and its
/// arguments (of an entry) or its result (of an exit), where the programs read them.
///
/// # Errors
/// One sentence: it is not there, or looks different.
pub(super) fn find(tracefs: &Tracefs, name: &str) -> Result<u64, String> {
    let read = |file: &str| {
        tracefs.read(&format!("events/syscalls/{name}/{file}")).map_err(|error| {
            format!(
                "this kernel has no tracepoint syscalls/{name} ({error}), which needs CONFIG_FTRACE_SYSCALLS=y"
            )
        })
    };
    if !fits(name, &read("format")?) {
        return Err(format!(
            "the tracepoint syscalls/{name} has a layout that this version does not know"
        ));
    }
    let number = read("id")?;
    number
        .trim()
        .parse()
        .map_err(|_| format!("the tracepoint syscalls/{name} has no number but {number:?}"))
}

fn fits(name: &str, format: &str) -> bool {
    let number = Field {
        offset: syscall_layout::NUMBER,
        size: 4,
    };
    let word = |offset| Field { offset, size: 8 };
    let wanted = if name.starts_with("sys_exit_") {
        vec![word(syscall_layout::RESULT)]
    } else {
        let arguments = if name == "sys_enter_listen" { 2 } else { 3 };
        (0..arguments)
            .map(|number| word(syscall_layout::ARGUMENTS + number * 8))
            .collect()
    };
    fields(format) == [vec![number], wanted].concat()
}

/// The fields behind those that all tracepoints have.
fn fields(format: &str) -> Vec<Field> {
    format
        .lines()
        .filter_map(|line| {
            let mut parts = line.trim().strip_prefix("field:")?.split(';');
            let declared = parts.next()?;
            let mut number =
                |of: &str| -> Option<usize> { parts.next()?.trim().strip_prefix(of)?.parse().ok() };
            let field = Field {
                offset: number("offset:")?,
                size: number("size:")?,
            };
            let name = declared.rsplit(' ').next()?;
            (!name.starts_with("common_")).then_some(field)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIND: &str = "name: sys_enter_bind\nID: 2238\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:int __syscall_nr;\toffset:8;\tsize:4;\tsigned:1;\n\
        \tfield:int fd;\toffset:16;\tsize:8;\tsigned:0;\n\
        \tfield:struct sockaddr * umyaddr;\toffset:24;\tsize:8;\tsigned:0;\n\
        \tfield:int addrlen;\toffset:32;\tsize:8;\tsigned:0;\n";
    const EXIT: &str = "name: sys_exit_bind\nformat:\n\
        \tfield:int __syscall_nr;\toffset:8;\tsize:4;\tsigned:1;\n\
        \tfield:long ret;\toffset:16;\tsize:8;\tsigned:1;\n";

    #[test]
    fn the_layout_that_the_programs_read_is_taken() {
        assert!(fits("sys_enter_bind", BIND));
        assert!(fits("sys_exit_bind", EXIT));
    }

    #[test]
    fn any_other_layout_is_refused() {
        assert!(!fits("sys_enter_listen", BIND));
        assert!(!fits(
            "sys_enter_bind",
            &BIND.replace("offset:24", "offset:20")
        ));
        assert!(!fits(
            "sys_exit_bind",
            &EXIT.replace("offset:8", "offset:12")
        ));
        assert!(!fits("sys_exit_bind", &EXIT.replace("size:8", "size:4")));
        assert!(!fits("sys_exit_bind", ""));
    }
}
