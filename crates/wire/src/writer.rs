//! Writing headers into a buffer of fixed size.

/// Appends to a buffer. `None` means that it does not fit.
pub(crate) struct Writer<'b> {
    buffer: &'b mut [u8],
    len: usize,
}

impl<'b> Writer<'b> {
    /// Starts at the beginning of `buffer`.
    pub(crate) fn new(buffer: &'b mut [u8]) -> Self {
        Writer { buffer, len: 0 }
    }

    /// Appends `bytes`.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.buffer.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    /// Appends a big-endian 16-bit field.
    pub(crate) fn put_u16(&mut self, value: u16) -> Option<()> {
        self.put(&value.to_be_bytes())
    }

    /// Appends a big-endian 32-bit field.
    pub(crate) fn put_u32(&mut self, value: u32) -> Option<()> {
        self.put(&value.to_be_bytes())
    }

    /// Overwrites the 16-bit field at `at`, which was appended before.
    pub(crate) fn set_u16(&mut self, at: usize, value: u16) -> Option<()> {
        let end = at.checked_add(2)?;
        let field = self.buffer.get_mut(..self.len)?.get_mut(at..end)?;
        field.copy_from_slice(&value.to_be_bytes());
        Some(())
    }

    /// What was appended so far.
    pub(crate) fn written(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}
