//! Owns the fields of what a recording begins with, of the time, and of its end.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use tcptrace_model::{Settings, conflict::KernelVersion};

use crate::{
    host::kernel_version,
    record::{Ending, Opening},
    render::Start,
};

#[derive(Clone, Debug, Encode, Decode)]
pub(super) struct WireOpening {
    #[n(0)]
    version: String,
    #[n(1)]
    ts_ns: u64,
    #[n(2)]
    clock_offset_ns: i64,
    #[n(3)]
    kernel: String,
    #[n(4)]
    hz: Option<u32>,
    #[n(5)]
    backends: BTreeMap<String, String>,
    #[n(6)]
    degraded: Vec<String>,
    #[n(7)]
    netns: Option<u32>,
    #[n(8)]
    sysctls: BTreeMap<String, String>,
    #[n(9)]
    settings: WireSettings,
    #[n(10)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, Encode, Decode)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting of its own"
)]
struct WireSettings {
    #[n(0)]
    max_connections: u64,
    #[n(1)]
    max_minisockets: u64,
    #[n(2)]
    stuck_after_ns: Option<u64>,
    #[n(3)]
    minisockets: bool,
    #[n(4)]
    minisocket_resets: bool,
    #[n(5)]
    known_minisockets_only: bool,
    #[n(6)]
    rearms_exact: bool,
    /// Since format 1.1; before, it is what the release of the kernel says.
    #[n(7)]
    kernel: Option<(u16, u16)>,
    /// Since format 1.1; before, there were none.
    #[n(8)]
    calls: Option<bool>,
    /// The third number of the kernel's version; nothing for 0, as before it was told.
    #[n(9)]
    patch: Option<u16>,
}

#[derive(Clone, Copy, Debug, Encode, Decode)]
pub(super) struct WireTick {
    #[n(0)]
    pub(super) now_ns: u64,
}

#[derive(Clone, Copy, Debug, Encode, Decode)]
pub(super) struct WireEnding {
    #[n(0)]
    ts_ns: u64,
    #[n(1)]
    duration_ns: u64,
}

impl From<&Opening> for WireOpening {
    fn from(opening: &Opening) -> Self {
        let Opening {
            start,
            settings,
            arguments,
        } = opening;
        let Start {
            version,
            ts_ns,
            kernel,
            hz,
            backends,
            degraded,
            netns,
            sysctls,
            clock_offset_ns,
        } = start;
        Self {
            version: version.clone(),
            ts_ns: *ts_ns,
            clock_offset_ns: *clock_offset_ns,
            kernel: kernel.clone(),
            hz: *hz,
            backends: backends.clone(),
            degraded: degraded.clone(),
            netns: *netns,
            sysctls: sysctls.clone(),
            settings: WireSettings::from(settings),
            arguments: arguments.clone(),
        }
    }
}

impl TryFrom<WireOpening> for Opening {
    type Error = String;

    fn try_from(wire: WireOpening) -> Result<Self, String> {
        let WireOpening {
            version,
            ts_ns,
            clock_offset_ns,
            kernel,
            hz,
            backends,
            degraded,
            netns,
            sysctls,
            settings,
            arguments,
        } = wire;
        Ok(Self {
            settings: settings.of(&kernel)?,
            start: Start {
                version,
                ts_ns,
                kernel,
                hz,
                backends,
                degraded,
                netns,
                sysctls,
                clock_offset_ns,
            },
            arguments,
        })
    }
}

impl From<&Settings> for WireSettings {
    fn from(settings: &Settings) -> Self {
        let Settings {
            max_connections,
            max_minisockets,
            stuck_after_ns,
            minisockets,
            minisocket_resets,
            known_minisockets_only,
            rearms_exact,
            kernel,
            calls,
        } = *settings;
        Self {
            max_connections: max_connections as u64,
            max_minisockets: max_minisockets as u64,
            stuck_after_ns,
            minisockets,
            minisocket_resets,
            known_minisockets_only,
            rearms_exact,
            kernel: Some((kernel.major, kernel.minor)),
            calls: Some(calls),
            patch: Some(kernel.patch).filter(|patch| *patch != 0),
        }
    }
}

impl WireSettings {
    /// The settings of a trace of the kernel with this release.
    fn of(self, release: &str) -> Result<Settings, String> {
        let Self {
            max_connections,
            max_minisockets,
            stuck_after_ns,
            minisockets,
            minisocket_resets,
            known_minisockets_only,
            rearms_exact,
            kernel,
            calls,
            patch,
        } = self;
        let size = |number: u64| {
            usize::try_from(number).map_err(|_| format!("{number} is too much for this machine"))
        };
        let defaults = Settings::default();
        Ok(Settings {
            max_connections: size(max_connections)?,
            max_minisockets: size(max_minisockets)?,
            stuck_after_ns,
            minisockets,
            minisocket_resets,
            known_minisockets_only,
            rearms_exact,
            kernel: kernel
                .map(|(major, minor)| KernelVersion {
                    patch: patch.unwrap_or(0),
                    ..KernelVersion::of(major, minor)
                })
                .or_else(|| {
                    kernel_version::KernelVersion::parse(release).map(|version| (&version).into())
                })
                .unwrap_or(defaults.kernel),
            calls: calls.unwrap_or(false),
        })
    }
}

impl From<Ending> for WireEnding {
    fn from(ending: Ending) -> Self {
        let Ending { ts_ns, duration_ns } = ending;
        Self { ts_ns, duration_ns }
    }
}

impl From<WireEnding> for Ending {
    fn from(wire: WireEnding) -> Self {
        let WireEnding { ts_ns, duration_ns } = wire;
        Self { ts_ns, duration_ns }
    }
}
