//! A read position in bytes that are not trusted: every read is checked against what is left.
//!
//! `None` always means "the bytes do not hold that"; the caller knows which Kafka error it is.

/// The bytes not yet read.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn i8(&mut self) -> Option<i8> {
        self.array().map(i8::from_be_bytes)
    }

    pub(super) fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u32_le(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A zigzag varint of at most five bytes (Kafka's `ByteUtils.readVarint`).
    #[inline]
    pub(super) fn varint(&mut self) -> Option<i32> {
        let zigzag = u32::try_from(self.unsigned_varint(5)? & u64::from(u32::MAX)).ok()?;
        Some((zigzag >> 1).cast_signed() ^ 0i32.wrapping_sub((zigzag & 1).cast_signed()))
    }

    /// A zigzag varint of at most ten bytes (Kafka's `ByteUtils.readVarlong`).
    #[inline]
    pub(super) fn varlong(&mut self) -> Option<i64> {
        let zigzag = self.unsigned_varint(10)?;
        Some((zigzag >> 1).cast_signed() ^ 0i64.wrapping_sub((zigzag & 1).cast_signed()))
    }

    /// As many bytes as a varint says; any negative length is null, as Kafka reads it.
    #[inline]
    pub(super) fn varint_bytes(&mut self) -> Option<Option<&'a [u8]>> {
        let length = self.varint()?;
        self.nullable(length)
    }

    /// As many bytes as an i32 says; any negative length is null, as Kafka reads it.
    pub(super) fn i32_bytes(&mut self) -> Option<Option<&'a [u8]>> {
        let length = self.i32()?;
        self.nullable(length)
    }

    fn nullable(&mut self, length: i32) -> Option<Option<&'a [u8]>> {
        match usize::try_from(length) {
            Ok(length) => self.take(length).map(Some),
            Err(_) => Some(None),
        }
    }

    #[inline]
    fn unsigned_varint(&mut self, bytes_max: u32) -> Option<u64> {
        let mut value = 0u64;
        for index in 0..bytes_max {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f).wrapping_shl(index.wrapping_mul(7));
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

/// Appends a zigzag varint.
pub(super) fn put_varint(out: &mut Vec<u8>, value: i32) {
    put_varlong(out, i64::from(value));
}

/// Appends a zigzag varint of up to ten bytes; for values of 32 bits the bytes are `put_varint`'s.
pub(super) fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned();
    while rest > 0x7f {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Bytes that [`put_varlong`] writes for a value.
pub(super) fn varlong_bytes(value: i64) -> usize {
    let zigzag = (value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned();
    let bits = 64u32.wrapping_sub((zigzag | 1).leading_zeros());
    bits.div_ceil(7) as usize
}
