//! Proves a request's lengths and counts by its bytes, before the message crate decodes it.
//!
//! `kafka-protocol` reserves memory by the array count it is told, so a frame of 50 bytes that
//! claims 2^31 elements would abort the process. [`request_header`] and [`check`] walk the frame
//! once by the schemas of [`apis`] and accept it only if every length lies inside the bytes that
//! are there and every array element was really met.
//!
//! Invariants:
//! - Nothing here allocates, and the depth of the walk is the depth of the schema, not of the data.
//! - What `check` accepts, the crate decodes without error. A few bytes after the last field are
//!   let pass, as Kafka does: librdkafka 2 sends one too many in Metadata version 12.
//! - What the crate then allocates is bounded by the body's length, [`Limits::elements`] and
//!   [`Limits::unknown_tagged_fields`].
//!
//! It is stricter than the crate where Kafka 3.9 is (null only in the versions that name it), and
//! stricter than both for a tagged field whose size is not its value's size and for a varint of
//! more than 32 bits.
//!
//! It does not judge values (an unknown `acks`, a topic name with a slash), looks into no records,
//! and keeps nothing of what it read.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

// By hand: one field a line is the table's point, and rustfmt would make it half as long again.
#[rustfmt::skip]
pub mod apis;
mod field;
mod header;
#[cfg(test)]
mod tests;

pub use field::{Element, Field, Kind, NEVER, Schema};
pub use header::{RequestHeader, request_header};

/// Bytes after the last field that are let pass. More of them are another protocol's: a connect
/// packet of ZooKeeper begins like a Produce request.
pub const TRAILING_BYTES_MAX: usize = 4;

/// Checks the body of a request (the frame after its header) against the schema of
/// (`api_key`, `api_version`).
///
/// # Errors
/// [`SchemaError`] says which field at which offset of `body` is wrong, and how.
pub fn check(
    api_key: i16,
    api_version: i16,
    body: &[u8],
    limits: &Limits,
) -> Result<(), SchemaError> {
    let Some(schema) = apis::schema(api_key) else {
        return Err(SchemaError::UnknownApi { api_key });
    };
    if !schema.versions().contains(&api_version) {
        return Err(SchemaError::UnsupportedVersion {
            api: schema.name,
            api_version,
        });
    }
    let mut walk = Walk::new(
        body,
        api_version,
        api_version >= schema.flexible_since,
        limits,
    );
    walk.fields(schema.fields)
        .and_then(|()| walk.end())
        .map_err(|problem| walk.error(schema.name, body, problem))
}

/// What one request may make the decoder build. Both stand in memory at once while the request
/// lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Array elements in one request, of all its arrays together. An element costs the decoder
    /// up to about 130 bytes.
    pub elements: u32,
    /// Tagged fields that the schema does not know, of all structures together. Each may cost a
    /// map node of about 450 bytes, from as few as two bytes on the wire.
    pub unknown_tagged_fields: u32,
}

impl Default for Limits {
    /// 500,000 elements: a fetch of 100,000 partitions, each in a topic of its own, that also
    /// forgets as many, has 400,000. 10,000 unknown tagged fields: clients of Kafka 4 send none
    /// in the versions of 3.9.
    fn default() -> Self {
        Limits {
            elements: 500_000,
            unknown_tagged_fields: 10_000,
        }
    }
}

/// Why a request was refused before it was decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// No schema for this key: the API is not Kafka's, or the server does not handle it.
    #[error("API key {api_key} is not handled here")]
    UnknownApi {
        /// The key that the client sent.
        api_key: i16,
    },
    /// The API is known, the version is not. Kafka answers this for `ApiVersions` alone, and
    /// closes the connection for all others.
    #[error("{api} has no version {api_version}")]
    UnsupportedVersion {
        /// The API's name.
        api: &'static str,
        /// The version that the client sent.
        api_version: i16,
    },
    /// The bytes do not fit the schema.
    #[error("{api} v{api_version}, field {field}, byte {offset}: {problem}")]
    Malformed {
        /// The API's name, or `RequestHeader`.
        api: &'static str,
        /// The version that the client sent.
        api_version: i16,
        /// The innermost field that was being read.
        field: &'static str,
        /// Offset in the checked bytes at which reading stopped.
        offset: usize,
        /// What is wrong there.
        problem: Problem,
    },
}

/// What is wrong with a field's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The field, or the length or count it states, goes beyond the bytes that are there.
    #[error("needs more bytes than the request has")]
    Truncated,
    /// A length or count below -1.
    #[error("has a negative length")]
    NegativeLength,
    /// Null in a version in which the field cannot be null.
    #[error("must not be null")]
    Null,
    /// A varint of more than 32 bits.
    #[error("has a varint of more than 32 bits")]
    VarintTooLong,
    /// A string that is not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// The marker before a nullable structure is neither 1 nor -1.
    #[error("has an unknown marker for a nullable structure")]
    StructMarker,
    /// More elements than [`Limits::elements`].
    #[error("exceeds the number of array elements that one request may have")]
    TooManyElements,
    /// More than [`Limits::unknown_tagged_fields`].
    #[error("exceeds the number of unknown tagged fields that one request may have")]
    TooManyTaggedFields,
    /// A known tag in a version that does not have it.
    #[error("is a tagged field of a later version")]
    TagOfOtherVersion,
    /// The size of a tagged field is not the size of its value.
    #[error("has a tagged field whose size is not its value's size")]
    TagSize,
    /// More than a few bytes after the last field.
    #[error("is followed by bytes that belong to no field")]
    TrailingBytes,
}

/// The state of one walk over one request.
struct Walk<'a> {
    /// What is still to be read; inside a tagged field, of that field only.
    rest: &'a [u8],
    /// Bytes after `rest`: those behind the tagged fields that the walk is inside of.
    rest_after: usize,
    version: i16,
    flexible: bool,
    elements_left: u32,
    unknown_tagged_fields_left: u32,
    /// The field being read, for the error.
    field: &'static str,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], version: i16, flexible: bool, limits: &Limits) -> Self {
        Walk {
            rest: bytes,
            rest_after: 0,
            version,
            flexible,
            elements_left: limits.elements,
            unknown_tagged_fields_left: limits.unknown_tagged_fields,
            field: "(start)",
        }
    }

    fn fields(&mut self, fields: &'static [Field]) -> Result<(), Problem> {
        for field in fields {
            if field.is_in(self.version) && field.tag.is_none() {
                self.value(field)?;
            }
        }
        if self.flexible {
            self.tagged_fields(fields)?;
        }
        Ok(())
    }

    fn value(&mut self, field: &'static Field) -> Result<(), Problem> {
        self.field = field.name;
        let nullable = self.version >= field.nullable_since;
        match field.kind {
            Kind::Fixed(size) => self.take(size).map(drop),
            Kind::String => {
                let length = self.length_16()?;
                self.string(length, nullable).map(drop)
            }
            Kind::Bytes => match self.length_32()? {
                Some(length) => self.take(length).map(drop),
                None => null(nullable),
            },
            Kind::Struct(fields) if nullable => match self.take(1)? {
                [1] => self.fields(fields),
                [0xff] => Ok(()),
                _ => Err(Problem::StructMarker),
            },
            Kind::Struct(fields) => self.fields(fields),
            Kind::Array(element) => match self.length_32()? {
                Some(count) => self.elements(element, count),
                None => null(nullable),
            },
        }
    }

    fn elements(&mut self, element: Element, count: usize) -> Result<(), Problem> {
        // An element has at least one byte, so a count beyond the bytes left is refused before
        // any element is looked at.
        if count > self.rest.len() {
            return Err(Problem::Truncated);
        }
        self.elements_left = u32::try_from(count)
            .ok()
            .and_then(|count| self.elements_left.checked_sub(count))
            .ok_or(Problem::TooManyElements)?;
        match element {
            Element::Fixed(size) => {
                let size = count.checked_mul(size).ok_or(Problem::Truncated)?;
                self.take(size)?;
            }
            Element::String => {
                for _ in 0..count {
                    let length = self.length_16()?;
                    self.string(length, false)?;
                }
            }
            Element::Struct(fields) => {
                for _ in 0..count {
                    self.fields(fields)?;
                }
            }
        }
        Ok(())
    }

    /// The tagged fields at the end of a structure (KIP-482): a count, then tag, size and value
    /// each. Their order is not checked, as Kafka does not.
    fn tagged_fields(&mut self, fields: &'static [Field]) -> Result<(), Problem> {
        let count = self.unsigned_varint()?;
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            let size = self.unsigned_varint()? as usize;
            match fields.iter().find(|field| field.tag == Some(tag)) {
                Some(field) if field.is_in(self.version) => self.tagged_field(field, size)?,
                Some(field) => {
                    self.field = field.name;
                    return Err(Problem::TagOfOtherVersion);
                }
                None => {
                    self.take(size)?;
                    self.unknown_tagged_fields_left = self
                        .unknown_tagged_fields_left
                        .checked_sub(1)
                        .ok_or(Problem::TooManyTaggedFields)?;
                }
            }
        }
        Ok(())
    }

    /// The value of a known tagged field, which must fill its `size`: the crate ignores that size
    /// and reads on, so that both would disagree on all that follows.
    fn tagged_field(&mut self, field: &'static Field, size: usize) -> Result<(), Problem> {
        let (value, after) = self.rest.split_at_checked(size).ok_or(Problem::Truncated)?;
        self.rest = value;
        self.rest_after = self.rest_after.saturating_add(after.len());
        self.value(field)?;
        if !self.rest.is_empty() {
            return Err(Problem::TagSize);
        }
        self.rest = after;
        self.rest_after = self.rest_after.saturating_sub(after.len());
        Ok(())
    }

    fn string(
        &mut self,
        length: Option<usize>,
        nullable: bool,
    ) -> Result<Option<&'a str>, Problem> {
        let Some(length) = length else {
            return null(nullable).map(|()| None);
        };
        match str::from_utf8(self.take(length)?) {
            Ok(string) => Ok(Some(string)),
            Err(_) => Err(Problem::NotUtf8),
        }
    }

    /// The length of a string.
    #[inline]
    fn length_16(&mut self) -> Result<Option<usize>, Problem> {
        if self.flexible {
            return self.length_compact();
        }
        length(i32::from(self.int16()?))
    }

    /// The length of bytes or the count of an array.
    #[inline]
    fn length_32(&mut self) -> Result<Option<usize>, Problem> {
        if self.flexible {
            return self.length_compact();
        }
        length(self.int32()?)
    }

    #[inline]
    fn length_compact(&mut self) -> Result<Option<usize>, Problem> {
        let length_plus_one = self.unsigned_varint()?;
        Ok(length_plus_one.checked_sub(1).map(|length| length as usize))
    }

    #[inline]
    fn unsigned_varint(&mut self) -> Result<u32, Problem> {
        let mut value: u32 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let (&byte, rest) = self.rest.split_first().ok_or(Problem::Truncated)?;
            self.rest = rest;
            // The fifth byte holds the last four bits.
            if shift == 28 && byte > 0x0f {
                return Err(Problem::VarintTooLong);
            }
            value |= u32::from(byte & 0x7f).wrapping_shl(shift);
            if byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    #[inline]
    fn int16(&mut self) -> Result<i16, Problem> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Problem::Truncated)?;
        self.rest = rest;
        Ok(i16::from_be_bytes(*bytes))
    }

    #[inline]
    fn int32(&mut self) -> Result<i32, Problem> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Problem::Truncated)?;
        self.rest = rest;
        Ok(i32::from_be_bytes(*bytes))
    }

    #[inline]
    fn take(&mut self, size: usize) -> Result<&'a [u8], Problem> {
        let (taken, rest) = self.rest.split_at_checked(size).ok_or(Problem::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn end(&self) -> Result<(), Problem> {
        if self.rest.len() <= TRAILING_BYTES_MAX {
            Ok(())
        } else {
            Err(Problem::TrailingBytes)
        }
    }

    #[cold]
    fn error(&self, api: &'static str, bytes: &[u8], problem: Problem) -> SchemaError {
        SchemaError::Malformed {
            api,
            api_version: self.version,
            field: self.field,
            offset: bytes
                .len()
                .saturating_sub(self.rest.len())
                .saturating_sub(self.rest_after),
            problem,
        }
    }
}

fn null(nullable: bool) -> Result<(), Problem> {
    if nullable { Ok(()) } else { Err(Problem::Null) }
}

#[inline]
fn length(value: i32) -> Result<Option<usize>, Problem> {
    match usize::try_from(value) {
        Ok(length) => Ok(Some(length)),
        Err(_) if value == -1 => Ok(None),
        Err(_) => Err(Problem::NegativeLength),
    }
}
