//! Owns the version of the running kernel.

use std::{ffi::CStr, fmt, io, mem::MaybeUninit};

use tcptrace_model::conflict;

/// A kernel version, as far as features depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number; 0 where the release has none there: `7.3-rc2`.
    pub patch: u32,
    /// The whole `uname -r`.
    pub release: String,
}

impl KernelVersion {
    /// The version of the running kernel.
    ///
    /// # Errors
    /// When uname(2) fails or its release does not begin with two numbers.
    pub fn running() -> io::Result<Self> {
        let mut name = MaybeUninit::<libc::utsname>::uninit();
        // SAFETY: uname(2) fills the struct that it is given.
        if unsafe { libc::uname(name.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: uname(2) returned 0, so the struct is filled and its strings are NUL-terminated.
        let release = unsafe { CStr::from_ptr((*name.as_ptr()).release.as_ptr()) };
        let release = release.to_string_lossy();
        Self::parse(&release).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("kernel release {release:?} does not begin with two numbers"),
            )
        })
    }

    /// Takes `release` apart, such as `6.1.0-42-cloud-amd64`.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.splitn(3, '.');
        let mut number = || {
            let word = numbers.next()?;
            let digits = word.find(|c: char| !c.is_ascii_digit());
            word[..digits.unwrap_or(word.len())].parse().ok()
        };
        Some(Self {
            major: number()?,
            minor: number()?,
            patch: number().unwrap_or(0),
            release: release.to_owned(),
        })
    }

    /// Whether this is `major.minor` or later.
    #[must_use]
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl From<&KernelVersion> for conflict::KernelVersion {
    fn from(version: &KernelVersion) -> Self {
        let number = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        Self {
            major: number(version.major),
            minor: number(version.minor),
            patch: number(version.patch),
        }
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_taken_apart() {
        let debian = KernelVersion::parse("6.1.0-42-cloud-amd64").unwrap();
        assert_eq!((debian.major, debian.minor, debian.patch), (6, 1, 0));
        let backport = KernelVersion::parse("6.16.12+deb13-amd64").unwrap();
        assert_eq!((backport.minor, backport.patch), (16, 12));
        let candidate = KernelVersion::parse("7.3-rc2").unwrap();
        assert_eq!(
            (candidate.major, candidate.minor, candidate.patch),
            (7, 3, 0)
        );
        assert_eq!(KernelVersion::parse("linux"), None);
        assert_eq!(KernelVersion::parse("6"), None);
    }

    #[test]
    fn versions_compare_by_number() {
        let version = KernelVersion::parse("5.10.0").unwrap();
        assert!(version.is_at_least(5, 8));
        assert!(version.is_at_least(5, 10));
        assert!(!version.is_at_least(5, 11));
        assert!(!version.is_at_least(6, 0));
    }
}
