//! Where inputs come from. A source yields inputs in the order in which they were recorded.

pub mod live;
