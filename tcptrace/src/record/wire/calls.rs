//! Owns the fields of inputs about bind(), listen() and connect() in recordings.

use std::num::NonZeroU64;

use minicbor::{Decode, Encode};
use tcptrace_model::{
    ListedHolder, Listing, Phase, SocketCall, Surroundings, TcpState,
    conflict::{Asked, Asker, BindSysctls, Call, Family, Holder, PortUse},
};

use super::{
    inputs::{Address, WireTask, Wired, fields},
    numbers::Number,
};

fields! {
    WireListedHolder for ListedHolder {
        0 ts_ns: u64,
        1 asker: u64,
        2 holder: WireHolder,
        3 netns: Option<u32>,
        4 expires_ns: Option<u64>,
    }
    WireSurroundings for Surroundings {
        0 ts_ns: u64,
        1 netns: u32,
        2 sk: u64,
        3 sysctls: WireSysctls,
        4 ports: Option<WirePortUse>,
    }
    WireCall for SocketCall {
        0 ts_ns: u64,
        1 began_ns: Option<u64>,
        2 call: Number<Call>,
        3 error: u16,
        4 sk: u64,
        5 cookie: Option<NonZeroU64>,
        6 netns: Option<u32>,
        7 cgroup_id: Option<u64>,
        8 task: WireTask,
        9 asker: WireAsker,
        10 asked: Option<WireAsked>,
        11 backlog: i32,
        12 local: Address,
        13 remote: Address,
        14 nonblocking: bool,
        15 refused_by_lsm: bool,
        16 guilty: Option<u64>,
        17 listing: Number<Listing>,
    }
    WireHolder for Holder {
        0 sk: u64,
        1 cookie: Option<NonZeroU64>,
        2 state: Number<TcpState>,
        3 minisocket: Option<Number<Phase>>,
        4 local: Address,
        5 remote: Address,
        6 reuseaddr: Option<bool>,
        7 reuseport: Option<bool>,
        8 force_reuse: bool,
        9 v6only: Option<bool>,
        10 uid: Option<u32>,
        11 device: u32,
        12 port_bound: Option<bool>,
        13 timestamps: Option<bool>,
    }
    WireSysctls for BindSysctls {
        0 unprivileged_port_start: u16,
        1 nonlocal_bind: bool,
        2 nonlocal_bind_v6: bool,
        3 port_range: (u16, u16),
        4 reserved_in_range: u32,
        5 autobind_reuse: bool,
        6 tcp_tw_reuse: u8,
        7 tcp_timestamps: bool,
    }
    WirePortUse for PortUse {
        0 ts_ns: u64,
        1 range: (u16, u16),
        2 reserved: u32,
        3 held: u32,
        4 by_state: [u32; 14],
        5 to_destination: [u32; 14],
        6 destination: Option<Address>,
    }
    WireAsker for Asker {
        0 family: Number<Family>,
        1 state: Number<TcpState>,
        2 local: Address,
        3 reuseaddr: bool,
        4 force_reuse: bool,
        5 reuseport: bool,
        6 reuseport_group: bool,
        7 v6only: bool,
        8 freebind: bool,
        9 transparent: bool,
        10 bind_address_no_port: bool,
        11 device: u32,
        12 uid: u32,
        13 port_range: Option<(u16, u16)>,
        14 may_bind_privileged: Option<bool>,
    }
    WireAsked for Asked {
        0 family: u16,
        1 len: u32,
        2 addr: Address,
        3 scope: u32,
    }
}
