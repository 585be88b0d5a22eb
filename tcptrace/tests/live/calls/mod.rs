//! bind(), listen(), connect() and accept(): what the kernel says of them, through each backend that it
//! allows, against what the test did.

mod arguments;
mod filters;
mod floods;
mod holders;
mod options;

use crate::Scenario;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("calls: who asked for what, and the answer", arguments::all),
        Scenario::new("calls: what is no call of TCP", arguments::others),
        Scenario::new("calls: accept", arguments::accepted),
        Scenario::new("calls: rights", arguments::rights),
        Scenario::new("calls: every option is itself", options::each),
        Scenario::new("calls: filters", filters::all),
        Scenario::new("calls: who holds the port", holders::all),
        Scenario::new("calls: ports used up", floods::exhausted),
        Scenario::new("calls: thousands fail", floods::thousands),
    ]
}
