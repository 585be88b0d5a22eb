//! Owns what a user's file of types must be: raw BTF of a whole kernel, in this machine's byte order.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context, Result, bail};

/// `BTF_MAGIC` of include/uapi/linux/btf.h (v6.18).
const MAGIC: u16 = 0xeb9f;
/// `BTF_VERSION` there.
const VERSION: u8 = 1;
/// Bytes of `struct btf_header` there.
const HEADER_BYTES: u64 = 24;
/// Where its fields `hdr_len` and `str_off` lie.
const HDR_LEN: usize = 4;
const STR_OFF: usize = 16;
/// What an ELF file begins with.
const ELF: [u8; 4] = *b"\x7fELF";

/// Looks at the beginning of the file.
///
/// # Errors
/// One sentence: what the file is instead, and how to get the right one.
pub(super) fn check(path: &Path) -> Result<()> {
    let name = path.display();
    let mut file = File::open(path).with_context(|| format!("cannot read {name}"))?;
    let mut header = Vec::new();
    (&mut file)
        .take(HEADER_BYTES)
        .read_to_end(&mut header)
        .with_context(|| format!("cannot read {name}"))?;
    if header.starts_with(&ELF) {
        bail!(
            "{name} is an ELF file, and raw BTF is wanted; take it out with: objcopy --dump-section .BTF=kernel.btf {name}, or make it from debug information with: pahole --btf_encode_detached=kernel.btf {name}"
        );
    }
    let magic = header.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
    if magic == Some(MAGIC.swap_bytes()) {
        bail!("{name} is BTF of a machine with the other byte order");
    }
    let word = |at: usize| {
        let bytes = header.get(at..)?.first_chunk()?;
        Some(u64::from(u32::from_ne_bytes(*bytes)))
    };
    let (Some(MAGIC), Some(hdr_len), Some(str_off)) = (magic, word(HDR_LEN), word(STR_OFF)) else {
        bail!("{name} is no BTF: it does not begin as BTF does, with {MAGIC:#06x}");
    };
    if header[2] != VERSION {
        bail!(
            "{name} is BTF of version {}, and this version of tcptrace knows {VERSION}",
            header[2]
        );
    }
    // kernel/bpf/btf.c `btf_parse_str_sec` (v6.18): the strings of a kernel begin with an empty one; those of
    // a module go on after the kernel's.
    let mut first = [0];
    file.seek(SeekFrom::Start(hdr_len + str_off))
        .and_then(|_| file.read_exact(&mut first))
        .with_context(|| format!("{name} is cut off: the strings are not there"))?;
    if first != [0] {
        bail!(
            "{name} is split BTF: only what a module adds to the kernel's types, and those of the kernel are wanted"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::*;

    /// BTF without types, with these strings.
    fn header(strings: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([VERSION, 0]);
        for word in [24, 0, 0, 0, u32::try_from(strings.len()).unwrap()] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    /// What [`check`] says of a file with these bytes.
    fn told(test: &str, bytes: &[u8]) -> Result<(), String> {
        let path = env::temp_dir().join(format!("tcptrace-btf-{test}-{}", process::id()));
        fs::write(&path, bytes).unwrap();
        let told = check(&path).map_err(|error| format!("{error:#}"));
        fs::remove_file(&path).unwrap();
        told
    }

    #[test]
    fn the_types_of_a_kernel_are_taken() {
        assert_eq!(told("kernel", &header(b"\0int\0")), Ok(()));
    }

    #[test]
    fn everything_else_is_named() {
        let mut other_order = header(b"\0");
        other_order[..2].reverse();
        let mut version = header(b"\0");
        version[2] = 9;
        for (test, bytes, words) in [
            ("empty", Vec::new(), "no BTF"),
            (
                "text",
                b"# a script, and a long one at that\n".to_vec(),
                "no BTF",
            ),
            (
                "elf",
                b"\x7fELF\x02\x01\x01 and so on, for long".to_vec(),
                "objcopy",
            ),
            ("order", other_order, "byte order"),
            ("version", version, "version 9"),
            ("split", header(b"int\0"), "split BTF"),
            ("cut", header(b""), "cut off"),
        ] {
            let said = told(test, &bytes).unwrap_err();
            assert!(said.contains(words), "{test}: {said}");
        }
        let missing = check(Path::new("/no/such/btf")).unwrap_err().to_string();
        assert!(missing.contains("/no/such/btf"), "{missing}");
    }
}
