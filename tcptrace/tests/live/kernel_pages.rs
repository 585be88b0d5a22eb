//! Decodes the kernel's binary trace pages (`trace_pipe_raw`), by the offsets in its format file.
//!
//! The text that the kernel prints from the same buffer leaves out the socket's address and cuts
//! times to microseconds; the pages have both.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail, ensure};

use crate::event::{Event, State, Step};

/// IPPROTO_TCP; the event also reports SCTP (132) and MPTCP (262) sockets.
const TCP: u16 = 6;
/// A flag in the page's commit word: events were lost before this page (RB_MISSED_EVENTS).
const MISSED: u64 = 1 << 31;
/// The size part of the commit word; the flags above it are not size.
const SIZE_MASK: u64 = (1 << 20) - 1;
/// `struct buffer_data_page`: a time stamp and a commit word of eight bytes each, then events.
const PAGE_HEADER: usize = 16;
/// Bits of a record's time delta that do not fit its header go into a time-extend record.
const DELTA_BITS: u32 = 27;

/// The layout of the `inet_sock_set_state` event on the running kernel.
pub(crate) struct Layout {
    id: u16,
    offsets: HashMap<String, usize>,
}

impl Layout {
    /// Reads the text of the event's `format` file.
    pub(crate) fn parse(format: &str) -> Result<Self> {
        let id = format
            .lines()
            .find_map(|line| line.strip_prefix("ID: "))
            .context("the format file has no ID line")?
            .trim()
            .parse()
            .context("the ID in the format file is no number")?;
        let mut offsets = HashMap::new();
        for line in format
            .lines()
            .filter(|line| line.trim_start().starts_with("field:"))
        {
            let mut parts = line.split(';');
            let declaration = parts.next().unwrap_or_default();
            let offset = parts
                .next()
                .and_then(|part| part.trim().strip_prefix("offset:"))
                .and_then(|number| number.parse().ok())
                .with_context(|| format!("no offset in the format line {line:?}"))?;
            let name = declaration.rsplit([' ', '*']).next().unwrap_or_default();
            let name = name.split('[').next().unwrap_or_default();
            offsets.insert(name.to_owned(), offset);
        }
        Ok(Self { id, offsets })
    }

    /// Appends the TCP events of one page to `events`.
    pub(crate) fn decode(&self, page: &[u8], events: &mut Vec<Event>) -> Result<()> {
        let mut clock = u64::from_ne_bytes(bytes(page, 0)?);
        let commit = u64::from_ne_bytes(bytes(page, 8)?);
        ensure!(
            commit & MISSED == 0,
            "the kernel's trace buffer was too small: it lost events"
        );
        let size = usize::try_from(commit & SIZE_MASK)?;
        let data = page
            .get(PAGE_HEADER..PAGE_HEADER + size)
            .with_context(|| format!("a page of {} bytes claims {size} of data", page.len()))?;
        let mut at = 0;
        while at < data.len() {
            let header = u32::from_ne_bytes(bytes(data, at)?);
            let (kind, delta) = (header & 0x1f, u64::from(header >> 5));
            let extra = || Ok::<_, anyhow::Error>(u32::from_ne_bytes(bytes(data, at + 4)?));
            match kind {
                // The length stands in a word of its own and counts that word.
                0 => {
                    clock += delta;
                    let length = usize::try_from(extra()?)?;
                    self.decode_event(data, at + 8, clock, events)?;
                    at += 4 + length;
                }
                1..=28 => {
                    clock += delta;
                    self.decode_event(data, at + 4, clock, events)?;
                    at += 4 + usize::try_from(kind)? * 4;
                }
                29 if delta == 0 => break,
                29 => at += 4 + usize::try_from(extra()?)?,
                30 => {
                    clock += (u64::from(extra()?) << DELTA_BITS) + delta;
                    at += 8;
                }
                _ => {
                    // An absolute time of 59 bits; the page's own stamp has the bits above.
                    let low = (u64::from(extra()?) << DELTA_BITS) + delta;
                    clock = (clock & !((1 << 59) - 1)) | low;
                    at += 8;
                }
            }
        }
        Ok(())
    }

    fn decode_event(
        &self,
        data: &[u8],
        at: usize,
        ts_ns: u64,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        if u16::from_ne_bytes(self.field(data, at, "common_type")?) != self.id {
            return Ok(());
        }
        if u16::from_ne_bytes(self.field(data, at, "protocol")?) != TCP {
            return Ok(());
        }
        let ipv6 = match libc::c_int::from(u16::from_ne_bytes(self.field(data, at, "family")?)) {
            libc::AF_INET => false,
            libc::AF_INET6 => true,
            other => bail!("the kernel reported a socket of address family {other}"),
        };
        let address = |v4: &str, v6: &str| -> Result<IpAddr> {
            Ok(if ipv6 {
                Ipv6Addr::from(self.field::<16>(data, at, v6)?).into()
            } else {
                Ipv4Addr::from(self.field::<4>(data, at, v4)?).into()
            })
        };
        let state = |name: &str| -> Result<State> {
            let number = u32::from_ne_bytes(self.field(data, at, name)?);
            State::from_number(number).with_context(|| format!("{name} is {number}: no TCP state"))
        };
        let step = Step {
            skaddr: u64::from_ne_bytes(self.field(data, at, "skaddr")?),
            ipv6,
            laddr: address("saddr", "saddr_v6")?,
            lport: u16::from_ne_bytes(self.field(data, at, "sport")?),
            raddr: address("daddr", "daddr_v6")?,
            rport: u16::from_ne_bytes(self.field(data, at, "dport")?),
            old: state("oldstate")?,
            new: state("newstate")?,
        };
        let tid = u32::from_ne_bytes(self.field(data, at, "common_pid")?);
        events.push(Event { ts_ns, tid, step });
        Ok(())
    }

    fn field<const N: usize>(&self, data: &[u8], at: usize, name: &str) -> Result<[u8; N]> {
        let offset = self
            .offsets
            .get(name)
            .with_context(|| format!("this kernel's inet_sock_set_state has no field {name}"))?;
        bytes(data, at + offset)
    }
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Result<[u8; N]> {
    data.get(at..at + N)
        .and_then(|slice| slice.try_into().ok())
        .with_context(|| format!("{N} bytes at {at} are past the end, {} bytes", data.len()))
}
