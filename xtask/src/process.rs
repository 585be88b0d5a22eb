//! Owns the running of other programs: their output, their time limits, and errors that name them.

use std::{
    env,
    io::{self, Read as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// The first program of that name on PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
}

/// Like [`on_path`], or an error that says which package has it.
pub(crate) fn require(name: &str, package: &str) -> Result<PathBuf> {
    on_path(name).with_context(|| format!("{name} is not on PATH (package {package})"))
}

/// Runs to the end, all output on stderr.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Like [`run`], but how it ended is for the caller to judge.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command
        .stdout(on_stderr()?)
        .status()
        .with_context(|| format!("cannot run `{}`", shown(command)))
}

/// Like [`run`], but stopped when it takes longer than `limit`.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    command.stdout(on_stderr()?);
    wait_within(command, limit).with_context(|| format!("`{}` failed", shown(command)))
}

/// Like [`run_within`], but silent: the error carries the first line that the program complained in.
pub(crate) fn run_silently_within(command: &mut Command, limit: Duration) -> Result<()> {
    let (mut reader, writer) = io::pipe()?;
    command.stdout(Stdio::null()).stderr(writer);
    let complaints = thread::spawn(move || {
        let mut text = Vec::new();
        // What could be read is good enough for an error message.
        let _ = reader.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let waited = wait_within(command, limit);
    // Our end of the pipe: as long as it is open the reader waits for more.
    command.stderr(Stdio::null());
    let complaints = complaints.join().unwrap_or_default();
    let first = complaints.lines().next().unwrap_or("it did not say why");
    waited.with_context(|| format!("`{}` failed: {}", shown(command), first.trim()))
}

/// Runs quietly and returns what it wrote to stdout; its stderr becomes part of the error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed: {}\n{}",
            shown(command),
            output.status,
            reason.trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether it ends well; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// The command as one would type it; of apt's without the settings and with the first packages only,
/// which would hide the rest.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy();
    let is_apt = name.starts_with("apt-");
    let mut words = vec![name.into_owned()];
    let mut arguments = command.get_args();
    while let Some(argument) = arguments.next() {
        if is_apt && argument == "-o" {
            arguments.next();
        } else {
            words.push(shell_quote(&argument.to_string_lossy()));
        }
    }
    if is_apt {
        shorten(&mut words, 8);
    }
    words.join(" ")
}

/// Cuts a long list off and says how much is missing.
pub(crate) fn shorten(words: &mut Vec<String>, most: usize) {
    if words.len() > most {
        let more = words.len() - most;
        words.truncate(most);
        words.push(format!("and {more} more"));
    }
}

/// `word` so that a POSIX shell takes it as one word, unchanged.
pub(crate) fn shell_quote(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-+=./:,@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn wait_within(command: &mut Command, limit: Duration) -> Result<()> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).spawn()?;
    loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                bail!("{status}");
            }
            return Ok(());
        }
        if start.elapsed() > limit {
            child.kill().and_then(|()| child.wait())?;
            bail!("it was stopped after {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn on_stderr() -> io::Result<Stdio> {
    Ok(io::stderr().as_fd().try_clone_to_owned()?.into())
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_keeps_plain_words_and_protects_the_rest() {
        assert_eq!(shell_quote("--port=8000,8080"), "--port=8000,8080");
        assert_eq!(shell_quote("exit 3"), "'exit 3'");
        assert_eq!(shell_quote("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(shell_quote(""), "''");
    }

    #[test]
    fn a_shell_gives_back_what_was_quoted() {
        let hostile = "a 'b' \"c\" $(d) \\ \n*";
        let script = format!("printf %s {}", shell_quote(hostile));
        let echoed = capture(Command::new("sh").args(["-c", &script])).expect("sh runs");
        assert_eq!(echoed, hostile);
    }

    #[test]
    fn commands_are_shown_without_the_path_of_the_program() {
        let mut command = Command::new("/usr/bin/apt-get");
        command.args(["-o", "Dir::Cache=/c", "install", "a b"]);
        assert_eq!(shown(&command), "apt-get install 'a b'");
    }

    #[test]
    fn a_program_that_takes_too_long_is_stopped() {
        let error = run_within(Command::new("sleep").arg("60"), Duration::from_millis(100))
            .expect_err("it cannot end in time");
        assert!(format!("{error:#}").contains("was stopped"), "{error:#}");
    }

    #[test]
    fn a_silent_program_is_quoted_by_its_first_complaint() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo E: no such host >&2; echo more >&2; exit 100"]);
        let error = run_silently_within(&mut command, Duration::from_secs(10))
            .expect_err("it exits with 100");
        let text = format!("{error:#}");
        assert!(
            text.contains("E: no such host") && !text.ends_with("more"),
            "{text}"
        );
        assert!(text.contains("100"), "{text}");
    }

    #[test]
    fn the_error_of_a_failed_program_carries_its_stderr() {
        let error = capture(Command::new("sh").args(["-c", "echo why >&2; exit 4"]))
            .expect_err("it exits with 4");
        assert!(error.to_string().contains("why"), "{error}");
    }
}
