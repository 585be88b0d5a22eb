//! Owns `Trouble`: what a source could not find out beside the events, once it is known.

/// What is not known, as one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Sockets may be missing.
    Sockets(String),
    /// Sockets may be without their owner.
    Owners(String),
    /// What ended a minisocket before its time is not known.
    Ends(String),
    /// Programs on the kernel's functions see nothing, or see again.
    Functions(String),
}

impl Trouble {
    /// The sentence.
    #[must_use]
    pub fn sentence(&self) -> &str {
        match self {
            Self::Sockets(sentence)
            | Self::Owners(sentence)
            | Self::Ends(sentence)
            | Self::Functions(sentence) => sentence,
        }
    }
}
