//! Owns the numbers that stand for words in recordings. They are fixed: a number is never given to
//! another word, and a new word gets a new number.

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use tcptrace_model::{
    Direction, EndedBy, File, Listing, LossReason, Phase, RecordKind, ResetReason, TcpState,
    conflict::{Call, Family},
};

/// A word that has a number in recordings.
pub(super) trait Numbered: Copy {
    /// What it is a word for.
    const WHAT: &'static str;
    /// The word for those that this version does not know, if there is one.
    const OTHER: Option<Self>;

    /// The number of this word.
    fn number(self) -> u16;

    /// The word with this number; `None` for one that this version does not know.
    fn from_number(number: u16) -> Option<Self>;
}

/// A word, in a recording as its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number<T>(pub(super) T);

impl<C, T: Numbered> Encode<C> for Number<T> {
    fn encode<W: encode::Write>(
        &self,
        encoder: &mut Encoder<W>,
        _context: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        encoder.u16(self.0.number())?.ok()
    }
}

impl<'b, C, T: Numbered> Decode<'b, C> for Number<T> {
    fn decode(decoder: &mut Decoder<'b>, _context: &mut C) -> Result<Self, decode::Error> {
        let number = decoder.u16()?;
        T::from_number(number)
            .or(T::OTHER)
            .map(Self)
            .ok_or_else(|| {
                decode::Error::message(format_args!("{number} is no {} that it knows", T::WHAT))
            })
    }
}

macro_rules! numbers {
    ($($type:ident, $what:literal $(, else $other:ident)?: { $($variant:ident = $number:literal,)+ })+) => {
        $(impl Numbered for $type {
            const WHAT: &'static str = $what;
            const OTHER: Option<Self> = [$(Some(Self::$other),)? None][0];

            fn number(self) -> u16 {
                match self {
                    $(Self::$variant => $number,)+
                }
            }

            fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }
        })+

        #[cfg(test)]
        fn numbers_and_whether_they_come_back() -> Vec<(&'static str, u16, bool)> {
            let mut all = Vec::new();
            $(for word in [$($type::$variant),+] {
                let number = Numbered::number(word);
                let comes_back = <$type as Numbered>::from_number(number) == Some(word);
                all.push(($what, number, comes_back));
            })+
            all
        }
    };
}

numbers! {
    // The kernel's own: include/net/tcp_states.h (v6.18).
    TcpState, "TCP state": {
        Established = 1,
        SynSent = 2,
        SynRecv = 3,
        FinWait1 = 4,
        FinWait2 = 5,
        TimeWait = 6,
        Close = 7,
        CloseWait = 8,
        LastAck = 9,
        Listen = 10,
        Closing = 11,
        NewSynRecv = 12,
        BoundInactive = 13,
    }
    Phase, "phase of a minisocket": {
        FinWait2 = 1,
        TimeWait = 2,
    }
    EndedBy, "end of a minisocket", else Unknown: {
        Unknown = 0,
        Expiry = 1,
        Connect = 2,
        Syn = 3,
        Data = 4,
        SynOrData = 5,
        Reset = 6,
        Destroyed = 7,
        NetnsExit = 8,
    }
    File, "holder of a socket": {
        Unknown = 0,
        None = 1,
        Open = 2,
        Released = 3,
    }
    Direction, "direction": {
        Sent = 1,
        Received = 2,
    }
    LossReason, "reason of a loss": {
        BufferFull = 1,
        Recursion = 2,
    }
    Call, "call": {
        Bind = 1,
        Listen = 2,
        Connect = 3,
    }
    Family, "family": {
        V4 = 4,
        V6 = 6,
    }
    Listing, "listing of a port": {
        None = 0,
        Whole = 1,
        Cut = 2,
    }
    // Not the kernel's: its numbers change between versions.
    ResetReason, "reason of a RST", else Other: {
        Other = 0,
        NotSpecified = 1,
        NoSocket = 2,
        TcpInvalidAckSequence = 3,
        TcpRfc7323Paws = 4,
        TcpTooOldAck = 5,
        TcpAckUnsentData = 6,
        TcpFlags = 7,
        TcpOldAck = 8,
        TcpAbortOnData = 9,
        TcpTimewaitSocket = 10,
        InvalidSyn = 11,
        TcpAbortOnClose = 12,
        TcpAbortOnLinger = 13,
        TcpAbortOnMemory = 14,
        TcpState = 15,
        TcpKeepaliveTimeout = 16,
        TcpDisconnectWithData = 17,
        MptcpRstEunspec = 18,
        MptcpRstEmptcp = 19,
        MptcpRstEresource = 20,
        MptcpRstEprohibit = 21,
        MptcpRstEwq2big = 22,
        MptcpRstEbadperf = 23,
        MptcpRstEmiddlebox = 24,
        Error = 25,
    }
}

/// The kinds of records have fixed numbers of their own.
impl Numbered for RecordKind {
    const WHAT: &'static str = "kind of record";
    const OTHER: Option<Self> = None;

    fn number(self) -> u16 {
        Self::number(self)
    }

    fn from_number(number: u16) -> Option<Self> {
        Self::from_number(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_a_number_of_its_own() {
        let mut all = numbers_and_whether_they_come_back();
        assert!(all.iter().all(|(_, _, comes_back)| *comes_back), "{all:?}");
        let words = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), words);
    }

    #[test]
    fn words_of_later_versions_are_unknown_where_there_is_a_word_for_that() {
        fn read<T: Numbered>(number: u16) -> Option<T> {
            let bytes = minicbor::to_vec(number).unwrap();
            decode(&bytes).ok().map(|Number(word)| word)
        }

        assert_eq!(read(9999), Some(ResetReason::Other));
        assert_eq!(read(9999), Some(EndedBy::Unknown));
        assert_eq!(read::<TcpState>(9999), None);
        assert_eq!(read::<RecordKind>(9999), None);
        assert_eq!(read::<File>(9999), None);
        assert_eq!(read(6), Some(TcpState::TimeWait));
    }
}
