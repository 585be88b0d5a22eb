//! Owns the initramfs: a newc archive with busybox, the programs to test and the command to run.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use cpio::newc::{self, ModeFileType};

use crate::process::shell_quote;

/// The guest's first process.
const INIT: &str = include_str!("init.sh");
/// Programs look users and hosts up; `nobody` is for tests without privileges.
const FILES: [(&str, &str); 3] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
];

/// Writes the archive to `path`: `programs` as (name in /bin, file on the host), `modules` in the order
/// of loading.
pub(super) fn write(
    path: &Path,
    busybox: &Path,
    programs: &[(&str, &Path)],
    modules: &[PathBuf],
    command: &[String],
) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut archive = Archive {
        out: BufWriter::new(file),
        inode: 0,
    };
    for folder in ["bin", "etc", "modules", "root"] {
        archive.add(folder, ModeFileType::Directory, 0o755, &[])?;
    }
    archive.add("init", ModeFileType::Regular, 0o755, INIT.as_bytes())?;
    archive.add(
        "command",
        ModeFileType::Regular,
        0o644,
        script(command).as_bytes(),
    )?;
    for (name, contents) in FILES {
        archive.add(name, ModeFileType::Regular, 0o644, contents.as_bytes())?;
    }
    for (name, program) in [("busybox", busybox)].iter().chain(programs) {
        let contents =
            fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        archive.add(
            &format!("bin/{name}"),
            ModeFileType::Regular,
            0o755,
            &contents,
        )?;
    }
    for (index, module) in modules.iter().enumerate() {
        let contents =
            fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
        // The guest loads them in the order of their names.
        let file = module.file_name().unwrap_or_default().display();
        archive.add(
            &format!("modules/{index}-{file}"),
            ModeFileType::Regular,
            0o644,
            &contents,
        )?;
    }
    newc::trailer(archive.out)?.flush()?;
    Ok(())
}

/// The command as a shell script: the last thing that the shell does is to become it.
fn script(command: &[String]) -> String {
    let words = command
        .iter()
        .map(|word| shell_quote(word))
        .collect::<Vec<_>>();
    format!("exec {}\n", words.join(" "))
}

struct Archive<W> {
    out: W,
    inode: u32,
}

impl<W: io::Write> Archive<W> {
    fn add(&mut self, name: &str, kind: ModeFileType, mode: u32, contents: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(contents.len())
            .with_context(|| format!("{name} is too large for an initramfs"))?;
        let entry = newc::Builder::new(name)
            .ino(self.inode)
            .nlink(1)
            .mode(mode)
            .set_mode_file_type(kind);
        let mut writer = entry.write(&mut self.out, size);
        writer.write_all(contents)?;
        writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_reaches_the_guest_word_by_word() {
        let command = ["sh", "-c", "echo hi; exit 3"].map(str::to_owned);
        assert_eq!(script(&command), "exec sh -c 'echo hi; exit 3'\n");
    }

    #[test]
    fn an_archive_gives_back_what_was_put_in() {
        let mut archive = Archive {
            out: Vec::new(),
            inode: 0,
        };
        archive
            .add("bin", ModeFileType::Directory, 0o755, &[])
            .expect("a folder fits");
        archive
            .add("bin/a", ModeFileType::Regular, 0o755, b"hello")
            .expect("a file fits");
        let bytes = newc::trailer(archive.out).expect("it can be closed");
        let folder = newc::Reader::new(bytes.as_slice()).expect("the first entry");
        assert_eq!(
            (folder.entry().name(), folder.entry().mode()),
            ("bin", 0o040_755)
        );
        let file = newc::Reader::new(folder.finish().expect("it ends")).expect("the second");
        assert_eq!(
            (file.entry().name(), file.entry().mode()),
            ("bin/a", 0o100_755)
        );
        let mut contents = Vec::new();
        file.to_writer(&mut contents).expect("it can be read");
        assert_eq!(contents, b"hello");
    }
}
