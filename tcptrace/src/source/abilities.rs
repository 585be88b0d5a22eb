//! Owns what a trace that is under way can show on this kernel, as facts for the doctor.

use super::live::Live;
use crate::bpf::{calls::CallsBackend, hooks::TimeWaitBackend};

/// What the running kernel lets a trace see, as it was found by loading and attaching.
#[derive(Clone, Debug)]
pub struct Abilities {
    /// How minisockets are watched; or why they are not.
    pub time_wait: Result<TimeWaitBackend, String>,
    /// Why minisockets are not watched by functions; `None` when they are, or that was not asked for.
    pub no_fentry: Option<String>,
    /// Whether a minisocket carries the date at which it was last set to TIME_WAIT: `tw_entry_stamp`.
    pub entry_stamp: bool,
    /// Why the function that ended a minisocket cannot be told; `None` when it can.
    pub no_symbols: Option<String>,
    /// Why RSTs are not seen; `None` when they are.
    pub no_resets: Option<String>,
    /// Whether the kernel says why it sends a RST, and tells those of minisockets.
    pub reset_reasons: bool,
    /// How calls are watched; or why they are not.
    pub calls: Result<CallsBackend, String>,
    /// Why calls are not watched by functions; `None` when they are, or that was not asked for.
    pub calls_no_fentry: Option<String>,
    /// Why the holders of ports are not listed; `None` when they are.
    pub no_lists: Option<String>,
    /// The function that shows the holder which the kernel met first, if there is one to attach to.
    pub in_the_way: Option<&'static str>,
    /// What accept() is seen by, if anything does.
    pub accepts: Option<CallsBackend>,
}

impl Abilities {
    /// Those of a trace. Waits for the kernel's symbols.
    #[must_use]
    pub fn of(live: &Live) -> Self {
        let attached = live.attached();
        let without_resets = || match attached.refused.as_slice() {
            [] => "this kernel has no tracepoint tcp_send_reset or tcp_receive_reset".to_owned(),
            refused => refused.join("; "),
        };
        Self {
            time_wait: attached.time_wait.clone(),
            no_fentry: attached.no_fentry.clone(),
            entry_stamp: attached.entry_stamp,
            no_symbols: live.symbols().err(),
            no_resets: (!attached.resets).then(without_resets),
            reset_reasons: live.settings().minisocket_resets,
            calls: attached.calls.clone(),
            calls_no_fentry: attached.calls_no_fentry.clone(),
            no_lists: attached.no_lists.clone(),
            in_the_way: attached.in_the_way,
            accepts: attached.accepts,
        }
    }
}
