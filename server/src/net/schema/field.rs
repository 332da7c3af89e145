//! The words that a schema is written in: an API, its fields, and how their bytes are laid out.
//!
//! Everything is `const`: the tables of `apis` lie in the binary's read-only data. What a field
//! says about versions is all there is; how lengths look is the walk's business.

use std::ops::RangeInclusive;

/// The schema of one request API in all its versions, from 0 on.
#[derive(Debug)]
pub struct Schema {
    /// Kafka's name of the API, without `Request`.
    pub name: &'static str,
    /// Kafka's number of the API.
    pub api_key: i16,
    /// The highest version.
    pub version_max: i16,
    /// The first version with compact lengths and tagged fields (KIP-482), or [`NEVER`].
    pub flexible_since: i16,
    /// The request's fields.
    pub fields: &'static [Field],
}

impl Schema {
    /// The versions that the schema describes.
    pub const fn versions(&self) -> RangeInclusive<i16> {
        0..=self.version_max
    }
}

/// A version that is never reached.
pub const NEVER: i16 = i16::MAX;

/// One field of a request or of a structure in it.
#[derive(Debug)]
pub struct Field {
    /// Kafka's name of the field.
    pub name: &'static str,
    /// How its bytes are laid out.
    pub kind: Kind,
    /// The first version that has it.
    pub since: i16,
    /// The last version that has it, or [`NEVER`].
    pub until: i16,
    /// The first version in which it may be null, or [`NEVER`].
    pub nullable_since: i16,
    /// Its tag, if it travels as a tagged field.
    pub tag: Option<u32>,
}

impl Field {
    /// Whether `version` has the field.
    pub const fn is_in(&self, version: i16) -> bool {
        self.since <= version && version <= self.until
    }
}

/// How a value is laid out. Lengths and counts are varints (plus one, 0 = null) in flexible
/// versions, else big-endian integers (-1 = null).
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A value of so many bytes.
    Fixed(usize),
    /// UTF-8 with a length (16 bits if not flexible).
    String,
    /// Bytes with a length (32 bits if not flexible).
    Bytes,
    /// A structure; with a marker byte before it where the field is nullable.
    Struct(&'static [Field]),
    /// A count (32 bits if not flexible) and so many elements. An element has at least one byte
    /// in every version that has the array.
    Array(Element),
}

/// What an array holds.
#[derive(Clone, Copy, Debug)]
pub enum Element {
    /// Values of so many bytes each.
    Fixed(usize),
    /// Strings.
    String,
    /// Structures.
    Struct(&'static [Field]),
}

pub(super) const BOOL: Kind = Kind::Fixed(1);
pub(super) const INT8: Kind = Kind::Fixed(1);
pub(super) const INT16: Kind = Kind::Fixed(2);
pub(super) const INT32: Kind = Kind::Fixed(4);
pub(super) const INT64: Kind = Kind::Fixed(8);
pub(super) const FLOAT64: Kind = Kind::Fixed(8);
pub(super) const UUID: Kind = Kind::Fixed(16);
pub(super) const STRING: Kind = Kind::String;
pub(super) const BYTES: Kind = Kind::Bytes;
pub(super) const INT32_ARRAY: Kind = Kind::Array(Element::Fixed(4));
pub(super) const INT64_ARRAY: Kind = Kind::Array(Element::Fixed(8));
pub(super) const STRING_ARRAY: Kind = Kind::Array(Element::String);

pub(super) const fn structure(fields: &'static [Field]) -> Kind {
    Kind::Struct(fields)
}

pub(super) const fn structs(fields: &'static [Field]) -> Kind {
    Kind::Array(Element::Struct(fields))
}

pub(super) const fn api(name: &'static str, api_key: i16) -> Schema {
    Schema {
        name,
        api_key,
        version_max: 0,
        flexible_since: NEVER,
        fields: &[],
    }
}

impl Schema {
    pub(super) const fn versions_to(self, version_max: i16) -> Self {
        Schema {
            version_max,
            ..self
        }
    }

    pub(super) const fn flexible_since(self, flexible_since: i16) -> Self {
        Schema {
            flexible_since,
            ..self
        }
    }

    pub(super) const fn fields(self, fields: &'static [Field]) -> Self {
        Schema { fields, ..self }
    }
}

pub(super) const fn field(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        since: 0,
        until: NEVER,
        nullable_since: NEVER,
        tag: None,
    }
}

impl Field {
    pub(super) const fn since(self, since: i16) -> Self {
        Field { since, ..self }
    }

    pub(super) const fn until(self, until: i16) -> Self {
        Field { until, ..self }
    }

    pub(super) const fn nullable(self) -> Self {
        self.nullable_since(0)
    }

    pub(super) const fn nullable_since(self, nullable_since: i16) -> Self {
        Field {
            nullable_since,
            ..self
        }
    }

    pub(super) const fn tag(self, tag: u32) -> Self {
        Field {
            tag: Some(tag),
            ..self
        }
    }
}
