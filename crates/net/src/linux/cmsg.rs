//! Control messages of recvmsg(2), see cmsg(3).

/// The control messages in a buffer, as (level, type, data); see cmsg(3) for the layout.
pub(super) struct ControlMessages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for ControlMessages<'a> {
    type Item = (i32, i32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        const WORD: usize = size_of::<usize>();
        const HEADER: usize = WORD + 8;
        let length = usize::from_ne_bytes(self.0.get(..WORD)?.try_into().ok()?);
        let level = i32::from_ne_bytes(self.0.get(WORD..WORD + 4)?.try_into().ok()?);
        let kind = i32::from_ne_bytes(self.0.get(WORD + 4..HEADER)?.try_into().ok()?);
        let data = self.0.get(HEADER..length)?;
        let aligned = length.checked_next_multiple_of(WORD)?;
        self.0 = self.0.get(aligned..).unwrap_or(&[]);
        Some((level, kind, data))
    }
}
