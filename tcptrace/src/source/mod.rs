//! Where inputs come from. A source yields inputs in the order in which they were recorded.

pub mod abilities;
mod awaited;
pub mod describe;
mod functions;
pub mod live;
pub mod replay;
mod snapshots;
mod surroundings;
pub mod trouble;
