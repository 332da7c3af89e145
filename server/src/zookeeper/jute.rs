//! Jute, ZooKeeper's serialisation: big-endian integers, strings, buffers and vectors with a
//! 32-bit length in front, where -1 stands for null.
//!
//! Invariants: a reader never reads past its slice and allocates only for bytes that are there; a
//! vector's count is checked against the bytes left before anything is made of it. It knows no
//! record; those are in `protocol`.

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JuteError {
    /// The bytes end inside a field.
    #[error("the record ends inside a field")]
    Short,
    /// A length below -1, or a count that the bytes left cannot hold.
    #[error("length {0} of a field is impossible")]
    Length(i32),
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Text,
    /// A field that may not be null is.
    #[error("a field is null")]
    Null,
}

/// Reads fields from the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], JuteError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(JuteError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// `boolean`: one byte, anything but 0 is true, as Java's `readBoolean` has it.
    pub fn bool(&mut self) -> Result<bool, JuteError> {
        Ok(self.take::<1>()? != [0])
    }

    /// `int`.
    pub fn i32(&mut self) -> Result<i32, JuteError> {
        Ok(i32::from_be_bytes(self.take()?))
    }

    /// `long`.
    pub fn i64(&mut self) -> Result<i64, JuteError> {
        Ok(i64::from_be_bytes(self.take()?))
    }

    /// `buffer`, borrowed.
    pub fn buffer(&mut self) -> Result<Option<&'a [u8]>, JuteError> {
        let length = self.i32()?;
        if length == -1 {
            return Ok(None);
        }
        let bytes = usize::try_from(length).map_err(|_| JuteError::Length(length))?;
        let (head, rest) = self.rest.split_at_checked(bytes).ok_or(JuteError::Short)?;
        self.rest = rest;
        Ok(Some(head))
    }

    /// `ustring`, borrowed.
    pub fn string(&mut self) -> Result<Option<&'a str>, JuteError> {
        let bytes = self.buffer()?;
        bytes
            .map(|bytes| std::str::from_utf8(bytes).map_err(|_| JuteError::Text))
            .transpose()
    }

    /// A string that may not be null.
    pub fn text(&mut self) -> Result<&'a str, JuteError> {
        self.string()?.ok_or(JuteError::Null)
    }

    /// The count of a vector whose elements take at least `element_bytes_min` bytes each; a null
    /// vector counts 0.
    pub fn count(&mut self, element_bytes_min: usize) -> Result<usize, JuteError> {
        let told = self.i32()?;
        if told == -1 {
            return Ok(0);
        }
        let count = usize::try_from(told).map_err(|_| JuteError::Length(told))?;
        if count > self.remaining() / element_bytes_min.max(1) {
            return Err(JuteError::Length(told));
        }
        Ok(count)
    }

    /// A vector of strings.
    pub fn strings(&mut self) -> Result<Vec<&'a str>, JuteError> {
        let count = self.count(4)?;
        (0..count).map(|_| self.text()).collect()
    }
}

/// Appends fields to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// `boolean`.
    pub fn bool(&mut self, value: bool) {
        self.bytes.push(u8::from(value));
    }

    /// `int`.
    pub fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// `long`.
    pub fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// A length or count. What the service keeps is bounded far below 2 GiB.
    pub fn length(&mut self, length: usize) {
        self.i32(i32::try_from(length).unwrap_or(i32::MAX));
    }

    /// `buffer`.
    pub fn buffer(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.i32(-1),
            Some(bytes) => {
                self.length(bytes.len());
                self.bytes.extend_from_slice(bytes);
            }
        }
    }

    /// `ustring`.
    pub fn text(&mut self, value: &str) {
        self.buffer(Some(value.as_bytes()));
    }

    /// Appends what another writer has.
    pub fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
    }

    /// Sets the four bytes at the front to the length of what follows them: a packet's frame.
    pub fn into_packet(mut self) -> Vec<u8> {
        let length = i32::try_from(self.bytes.len().saturating_sub(4)).unwrap_or(i32::MAX);
        if let Some(head) = self.bytes.first_chunk_mut::<4>() {
            *head = length.to_be_bytes();
        }
        self.bytes
    }

    /// A buffer that begins with room for a packet's length; ends with [`Writer::into_packet`].
    #[must_use]
    pub fn packet() -> Self {
        Self { bytes: vec![0; 4] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut writer = Writer::new();
        writer.bool(true);
        writer.i32(-7);
        writer.i64(i64::MIN);
        writer.buffer(None);
        writer.text("grün");
        writer.length(1);
        writer.text("x");
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.bool(), Ok(true));
        assert_eq!(reader.i32(), Ok(-7));
        assert_eq!(reader.i64(), Ok(i64::MIN));
        assert_eq!(reader.buffer(), Ok(None));
        assert_eq!(reader.text(), Ok("grün"));
        assert_eq!(reader.strings(), Ok(vec!["x"]));
        assert_eq!(reader.remaining(), 0);
    }

    #[test]
    fn hostile_lengths_are_errors_and_allocate_nothing() {
        assert_eq!(
            Reader::new(&[0x7f, 0xff, 0xff, 0xff]).buffer(),
            Err(JuteError::Short)
        );
        assert_eq!(
            Reader::new(&[0xff, 0xff, 0xff, 0xfe]).buffer(),
            Err(JuteError::Length(-2))
        );
        assert_eq!(
            Reader::new(&[0x7f, 0xff, 0xff, 0xff, 0]).strings(),
            Err(JuteError::Length(i32::MAX))
        );
        assert_eq!(
            Reader::new(&[0, 0, 0, 1, 0xff]).text(),
            Err(JuteError::Text)
        );
        assert_eq!(Reader::new(&[0, 0]).i32(), Err(JuteError::Short));
        assert_eq!(Reader::new(&[0xff; 4]).text(), Err(JuteError::Null));
    }

    #[test]
    fn a_packet_carries_its_length() {
        let mut writer = Writer::packet();
        writer.i32(5);
        assert_eq!(writer.into_packet(), [0, 0, 0, 4, 0, 0, 0, 5]);
    }
}
