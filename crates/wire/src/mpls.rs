//! ICMP extensions (RFC 4884) and the MPLS label stacks in them (RFC 4950).

use crate::MplsStack;
use crate::checksum::Sum;
use crate::layout::{u8_at, u16_at};

/// Bytes that a quote takes at least when extensions follow (RFC 4884 §3), and exactly when its
/// length is not given (§5.5).
const MIN_QUOTE_LEN: usize = 128;
/// Extension structure version (RFC 4884 §7).
const VERSION: u8 = 2;
/// Extension and object headers are this long (RFC 4884 §7, §7.1).
const HEADER_LEN: usize = 4;
/// Class and type of an incoming label stack (RFC 4950 §3).
const MPLS_STACK: [u8; 2] = [1, 1];

/// Splits the part of an ICMP error behind its header into the quoted packet and the labels in the
/// extensions.
///
/// `quote_len` is the length attribute in bytes, 0 when absent. Extensions that are broken are
/// none: then everything is quote. Where the length attribute is absent, as senders from before RFC
/// 4884 leave it, only a checksum tells extensions from more quoted bytes, so it must be there.
pub(crate) fn split_extensions(body: &[u8], quote_len: usize) -> (&[u8], MplsStack) {
    let found = match quote_len {
        0 => split_at(body, MIN_QUOTE_LEN, false),
        MIN_QUOTE_LEN.. => split_at(body, quote_len, true),
        _ => None,
    };
    found.unwrap_or((body, MplsStack::default()))
}

/// `None`: there are no extensions at this offset.
fn split_at(body: &[u8], at: usize, announced: bool) -> Option<(&[u8], MplsStack)> {
    let (quote, extensions) = body.split_at_checked(at)?;
    is_valid(extensions, announced).then(|| (quote, parse(extensions)))
}

impl MplsStack {
    /// The labels of an ICMP error from which the quote's headers were taken away, as Linux does
    /// for ordinary sockets.
    ///
    /// `data` is the rest of the quote, with everything behind it. `headers` is how many bytes of
    /// the quote are missing. `announced` is where in `data` extensions begin according to the
    /// length attribute; `None`: there is none, or nobody says.
    pub fn without_headers(data: &[u8], headers: usize, announced: Option<usize>) -> MplsStack {
        let at = announced.or_else(|| MIN_QUOTE_LEN.checked_sub(headers));
        at.and_then(|at| split_at(data, at, announced.is_some()))
            .map_or_else(MplsStack::default, |(_, labels)| labels)
    }
}

/// A zero checksum means that there is none (RFC 4884 §7).
fn is_valid(extensions: &[u8], announced: bool) -> bool {
    let Some(header) = extensions.first_chunk::<HEADER_LEN>() else {
        return false;
    };
    let no_checksum = u16_at::<2, _>(header) == 0;
    u8_at::<0, _>(header) >> 4 == VERSION
        && ((no_checksum && announced) || Sum::default().bytes(extensions).is_valid())
}

/// Collects the labels of all label stack objects up to the first broken object.
fn parse(extensions: &[u8]) -> MplsStack {
    let mut stack = MplsStack::default();
    let mut objects = extensions.get(HEADER_LEN..).unwrap_or_default();
    while let Some((class, payload, rest)) = next_object(objects) {
        if class == MPLS_STACK {
            let (entries, _) = payload.as_chunks::<4>();
            for entry in entries {
                stack.push(u32::from_be_bytes(*entry));
            }
        }
        objects = rest;
    }
    stack
}

/// The next object's class and type, its payload, and what is behind it.
fn next_object(objects: &[u8]) -> Option<([u8; 2], &[u8], &[u8])> {
    let [high, low, class, kind] = *objects.first_chunk()?;
    let (object, rest) = objects.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    Some(([class, kind], object.get(HEADER_LEN..)?, rest))
}
