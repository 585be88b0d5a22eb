//! Owns the addresses of the kernel's functions, as /proc/kallsyms tells them.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
};

const KALLSYMS: &str = "/proc/kallsyms";

/// Where some of the kernel's functions lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbols {
    /// Lowest address first.
    functions: Vec<Function>,
}

/// A function of the kernel, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name, without what the compiler has added.
    pub name: &'static str,
    /// Whether the compiler has added something: a clone or a part that it has split off, such as
    /// `name.isra.0`, `name.constprop.0`, `name.part.0`, `name.cold`.
    pub clone: bool,
    /// Its first address.
    pub start: u64,
    /// The address of the next function; `start` when there is none.
    pub end: u64,
}

impl Symbols {
    /// Reads where the functions `names` lie. A name that this kernel does not have is left out.
    ///
    /// # Errors
    /// One sentence: the file cannot be read, or the kernel hides its addresses; and what to type.
    pub fn read(names: &[&'static str]) -> Result<Self, String> {
        let restricted = fs::read_to_string("/proc/sys/kernel/kptr_restrict").unwrap_or_default();
        File::open(KALLSYMS)
            // The kernel hands out a page at a time, whatever the size of the buffer.
            .and_then(|file| Self::parse(BufReader::with_capacity(16 * 1024, file), names))
            .map_err(|error| {
                format!(
                    "cannot read {KALLSYMS}: {error}; it takes a kernel with CONFIG_KALLSYMS, and root"
                )
            })?
            .ok_or_else(|| hidden(restricted.trim()))
    }

    /// Every part of the function `name`, lowest address first; none when this kernel has no such
    /// function, or has put it into its callers.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Function> {
        self.functions
            .iter()
            .filter(move |function| function.name == name)
    }

    /// What a pointer to the function `name` holds; `None` when this kernel has no such function, or
    /// several.
    #[must_use]
    pub fn address_of(&self, name: &str) -> Option<u64> {
        let mut whole = self.of(name).filter(|function| !function.clone);
        let only = whole.next()?;
        whole.next().is_none().then_some(only.start)
    }

    /// The name of the function that `address` lies in, if it is one that was asked for.
    #[must_use]
    pub fn name_of(&self, address: u64) -> Option<&'static str> {
        let after = self
            .functions
            .partition_point(|function| function.start <= address);
        let function = self.functions[..after].last()?;
        (address < function.end).then_some(function.name)
    }

    /// Reads text as /proc/kallsyms holds it. `None` when all addresses in it are 0.
    ///
    /// # Errors
    /// When reading fails, or there is no function in it.
    fn parse(mut text: impl BufRead, names: &[&'static str]) -> io::Result<Option<Self>> {
        let mut functions = Vec::new();
        // All of them, since the file is not sorted throughout: modules and eBPF programs come after
        // the kernel, each in an order of its own.
        let mut starts = Vec::with_capacity(256 * 1024);
        let mut line = Vec::new();
        while text.read_until(b'\n', &mut line)? > 0 {
            if let Some((start, name)) = function(&line) {
                starts.push(start);
                let base = name.split(|byte| *byte == b'.').next().unwrap_or(name);
                if let Some(wanted) = names.iter().find(|wanted| wanted.as_bytes() == base) {
                    functions.push(Function {
                        name: wanted,
                        clone: base.len() < name.len(),
                        start,
                        end: start,
                    });
                }
            }
            line.clear();
        }
        if starts.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "there is no function in it",
            ));
        }
        if starts.iter().all(|start| *start == 0) {
            return Ok(None);
        }
        sort_runs(&mut starts);
        for function in &mut functions {
            let after = starts.partition_point(|start| *start <= function.start);
            function.end = starts.get(after).copied().unwrap_or(function.start);
        }
        functions.sort_by_key(|function| function.start);
        Ok(Some(Self { functions }))
    }
}

#[expect(
    clippy::stable_sort_primitive,
    reason = "it makes use of the long runs that are in order already, which the other one does not"
)]
fn sort_runs(starts: &mut [u64]) {
    starts.sort();
}

/// The address and the name that a line holds, if it is about a function:
/// `ffffffff8200b420 T tcp_abort`, with a tab and `[module]` after the name of a module's:
/// kernel/kallsyms.c `s_show` (v6.18).
fn function(line: &[u8]) -> Option<(u64, &[u8])> {
    let mut fields = line.splitn(3, |byte| *byte == b' ');
    let address = fields.next()?;
    let [b't' | b'T' | b'w' | b'W'] = fields.next()? else {
        return None;
    };
    let name = fields
        .next()?
        .split(|byte| *byte == b'\t' || *byte == b'\n')
        .next()?;
    let address = address.iter().try_fold(0_u64, |sum, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        (sum >> 60 == 0).then_some(sum << 4 | u64::from(digit))
    })?;
    Some((address, name))
}

/// What to do about hidden addresses, by the value of kernel.kptr_restrict: kernel/ksyms_common.c
/// `kallsyms_show_value` (v6.18).
fn hidden(kptr_restrict: &str) -> String {
    let remedy = match kptr_restrict {
        "2" => "kernel.kptr_restrict is 2; allow it with: sysctl kernel.kptr_restrict=1",
        _ => "the capability CAP_SYSLOG is missing; run as root",
    };
    format!("the kernel hides the addresses of its functions in {KALLSYMS}: {remedy}")
}

#[cfg(test)]
impl Symbols {
    /// Those of a text such as /proc/kallsyms: for tests of what depends on them.
    pub(crate) fn of_text(text: &str, names: &[&'static str]) -> Self {
        Self::parse(text.as_bytes(), names).unwrap().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
ffffffff81000000 T _text
ffffffff81000100 t inet_twsk_kill.isra.0
ffffffff81000110 T __pfx_tcp_abort
ffffffff81000120 T tcp_abort
ffffffff81000190 D tcp_hashinfo
ffffffff81000200 T tcp_abort_all
ffffffff81000300 t tcp_abort.cold
ffffffff81000310 t other.constprop.0.cold
ffffffffc0000500 t tcp_diag_destroy\t[tcp_diag]
ffffffffc0000100 t tcp_diag_dump\t[tcp_diag]
ffffffffc0000580 t tcp_diag_init\t[tcp_diag]
ffffffffc0000000 t bpf_prog_1\t[bpf]
";

    fn symbols() -> Symbols {
        Symbols::of_text(
            TEXT,
            &[
                "tcp_abort",
                "inet_twsk_kill",
                "tcp_diag_destroy",
                "tcp_diag_init",
                "absent",
            ],
        )
    }

    fn ranges(name: &str) -> Vec<(u64, u64)> {
        let symbols = symbols();
        symbols.of(name).map(|one| (one.start, one.end)).collect()
    }

    #[test]
    fn a_function_reaches_to_the_next_one_and_not_to_the_next_datum() {
        assert_eq!(
            ranges("tcp_abort"),
            [
                (0xffff_ffff_8100_0120, 0xffff_ffff_8100_0200),
                (0xffff_ffff_8100_0300, 0xffff_ffff_8100_0310),
            ]
        );
        assert_eq!(ranges("absent"), []);
    }

    #[test]
    fn modules_need_not_be_in_order() {
        assert_eq!(
            ranges("tcp_diag_destroy"),
            [(0xffff_ffff_c000_0500, 0xffff_ffff_c000_0580)]
        );
    }

    #[test]
    fn clones_belong_to_their_function_and_are_known_as_such() {
        let symbols = symbols();
        let kill: Vec<_> = symbols.of("inet_twsk_kill").collect();
        assert!(kill.len() == 1 && kill[0].clone);
        assert_eq!(symbols.address_of("inet_twsk_kill"), None);
        assert_eq!(symbols.address_of("tcp_abort"), Some(0xffff_ffff_8100_0120));
        assert_eq!(symbols.address_of("absent"), None);
    }

    #[test]
    fn a_name_that_stands_for_two_functions_has_no_address() {
        let text = "ffffffff81000100 t twice\nffffffff81000200 t twice\n";
        assert_eq!(Symbols::of_text(text, &["twice"]).address_of("twice"), None);
    }

    #[test]
    fn addresses_have_names_from_the_first_byte_to_the_last() {
        let symbols = symbols();
        for (address, name) in [
            (0xffff_ffff_8100_011f, None),
            (0xffff_ffff_8100_0120, Some("tcp_abort")),
            (0xffff_ffff_8100_01ff, Some("tcp_abort")),
            (0xffff_ffff_8100_0200, None),
            (0xffff_ffff_8100_0305, Some("tcp_abort")),
            (0xffff_ffff_c000_057f, Some("tcp_diag_destroy")),
            // The last function of all: where it ends is not known.
            (0xffff_ffff_c000_0580, None),
            (0, None),
            (u64::MAX, None),
        ] {
            assert_eq!(symbols.name_of(address), name, "{address:#x}");
        }
    }

    #[test]
    fn hidden_addresses_are_an_error_that_says_what_to_type() {
        let text = "0000000000000000 T _text\n0000000000000000 t tcp_abort\n";
        assert_eq!(
            Symbols::parse(text.as_bytes(), &["tcp_abort"]).unwrap(),
            None
        );
        assert!(hidden("2").contains("sysctl kernel.kptr_restrict=1"));
        assert!(hidden("0").contains("run as root"));
    }

    #[test]
    fn lines_of_another_kind_are_passed_over() {
        for line in [
            "",
            "\n",
            "nonsense\n",
            "ffffffff81000000\n",
            "ffffffff81000000 T\n",
            "ffffffff81000000 TT name\n",
            "xyz T name\n",
            "11112222333344445 T name\n",
            "ffffffff81000000 d name\n",
        ] {
            assert_eq!(function(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(function(b"1f w name"), Some((0x1f, &b"name"[..])));
        assert!(Symbols::parse(&b"no function\n"[..], &[]).is_err());
    }

    #[test]
    fn this_kernel_has_its_functions_or_says_why_it_hides_them() {
        match Symbols::read(&["tcp_time_wait", "tw_timer_handler"]) {
            Ok(symbols) => {
                let handler = symbols.address_of("tw_timer_handler").unwrap();
                assert_eq!(symbols.name_of(handler), Some("tw_timer_handler"));
                assert!(symbols.of("tcp_time_wait").all(|one| one.start < one.end));
            }
            Err(sentence) => assert!(sentence.contains(KALLSYMS), "{sentence}"),
        }
    }
}
