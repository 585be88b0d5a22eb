//! Where inputs come from. A source yields inputs in the order in which they were recorded.

mod awaited;
pub mod describe;
pub mod live;
pub mod replay;
mod snapshots;
mod surroundings;
pub mod trouble;
