//! Owns `Failure`: why a command ends without having done its work, and the exit status that says so.

use std::fmt;

/// Why a command failed. Each holds one sentence that says what failed, on what, and what to type.
#[derive(Debug)]
pub enum Failure {
    /// The command line asks for something that cannot be: exit status 2.
    Usage(String),
    /// The kernel or the privileges do not allow it: exit status 3.
    Unsupported(String),
    /// Anything else: exit status 1.
    Other(anyhow::Error),
}

impl Failure {
    /// The exit status of the process.
    #[must_use]
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Other(_) => 1,
            Self::Usage(_) => 2,
            Self::Unsupported(_) => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(sentence) | Self::Unsupported(sentence) => f.write_str(sentence),
            // With its causes, on one line.
            Self::Other(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_exit_status() {
        assert_eq!(Failure::Usage(String::new()).exit_status(), 2);
        assert_eq!(Failure::Unsupported(String::new()).exit_status(), 3);
        assert_eq!(Failure::Other(anyhow::anyhow!("x")).exit_status(), 1);
    }

    #[test]
    fn causes_are_told_on_one_line() {
        let failure = Failure::from(anyhow::anyhow!("no such file").context("cannot read x"));
        assert_eq!(failure.to_string(), "cannot read x: no such file");
    }
}
