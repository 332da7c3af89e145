//! Random requests by schema: bytes, and where in them the lengths and counts stand.

use ringlog::net::schema::{Element, Field, Kind, Schema};

/// SplitMix64: enough for tests, and a failure replays from its seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// How a length or count is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Int16,
    Int32,
    Varint,
}

/// A length or count in a generated request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    pub(crate) field: &'static str,
    pub(crate) offset: usize,
    pub(crate) size: usize,
    pub(crate) width: Width,
    /// Whether null (or zero, for a number of tagged fields) may stand there.
    pub(crate) nullable: bool,
    /// Whether a tagged field around it states its own size, so that any change is an error.
    pub(crate) tags: bool,
}

/// A request's body.
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lengths: Vec<Length>,
}

struct Generator<'r> {
    random: &'r mut Random,
    version: i16,
    flexible: bool,
    body: Body,
}

/// A body of `schema` in `version` with every array filled.
pub(crate) fn body(schema: &Schema, version: i16, random: &mut Random) -> Body {
    let mut generator = Generator {
        random,
        version,
        flexible: version >= schema.flexible_since,
        body: Body {
            bytes: Vec::new(),
            lengths: Vec::new(),
        },
    };
    generator.fields(schema.fields);
    generator.body
}

pub(crate) fn varint(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).expect("seven bits"));
    bytes
}

impl Generator<'_> {
    fn fields(&mut self, fields: &'static [Field]) {
        for field in fields {
            if field.is_in(self.version) && field.tag.is_none() {
                self.value(field);
            }
        }
        if self.flexible {
            self.tagged_fields(fields);
        }
    }

    fn value(&mut self, field: &'static Field) {
        let nullable = self.version >= field.nullable_since;
        // A tagged field that is null is not written at all.
        let null = nullable && field.tag.is_none() && self.random.one_in(4);
        match field.kind {
            Kind::Fixed(size) => self.fixed(size),
            Kind::String => self.string(field.name, nullable, null),
            Kind::Bytes => {
                let size = self.random.below(40);
                self.length(
                    field.name,
                    (!null).then_some(size),
                    self.width(Width::Int32),
                    nullable,
                );
                if !null {
                    self.random_bytes(size);
                }
            }
            Kind::Struct(fields) => {
                if nullable {
                    self.body.bytes.push(if null { 0xff } else { 1 });
                }
                if !null {
                    self.fields(fields);
                }
            }
            Kind::Array(element) => {
                let count = 1 + self.random.below(3);
                self.length(
                    field.name,
                    (!null).then_some(count),
                    self.width(Width::Int32),
                    nullable,
                );
                for _ in 0..if null { 0 } else { count } {
                    match element {
                        Element::Fixed(size) => self.fixed(size),
                        Element::String => self.string(field.name, false, false),
                        Element::Struct(fields) => self.fields(fields),
                    }
                }
            }
        }
    }

    fn tagged_fields(&mut self, fields: &'static [Field]) {
        let mut tagged: Vec<(u32, Vec<u8>, Vec<Length>)> = Vec::new();
        for field in fields {
            let Some(tag) = field.tag.filter(|_| field.is_in(self.version)) else {
                continue;
            };
            if self.random.one_in(3) {
                continue;
            }
            let outer = std::mem::replace(
                &mut self.body,
                Body {
                    bytes: Vec::new(),
                    lengths: Vec::new(),
                },
            );
            self.value(field);
            let inner = std::mem::replace(&mut self.body, outer);
            tagged.push((tag, inner.bytes, inner.lengths));
        }
        tagged.sort_by_key(|(tag, ..)| *tag);
        for _ in 0..if self.random.one_in(4) { 2 } else { 0 } {
            let tag = 100 + u32::try_from(tagged.len()).expect("few tags");
            let size = self.random.below(6);
            let value = (0..size).map(|_| self.byte()).collect();
            tagged.push((tag, value, Vec::new()));
        }
        self.raw_length("number of tagged fields", tagged.len(), true, true);
        for (tag, value, lengths) in tagged {
            self.body.bytes.extend(varint(tag));
            self.raw_length("size of a tagged field", value.len(), false, true);
            let offset = self.body.bytes.len();
            self.body
                .lengths
                .extend(lengths.into_iter().map(|length| Length {
                    offset: length.offset + offset,
                    ..length
                }));
            self.body.bytes.extend(value);
        }
    }

    fn string(&mut self, field: &'static str, nullable: bool, null: bool) {
        let mut text = String::new();
        for _ in 0..self.random.below(8) {
            text.push(['a', 'z', '-', '7', 'ü', '世'][self.random.below(6)]);
        }
        self.length(
            field,
            (!null).then_some(text.len()),
            self.width(Width::Int16),
            nullable,
        );
        if !null {
            self.body.bytes.extend(text.as_bytes());
        }
    }

    /// One byte is a boolean as likely as not: 0 and 1 are good for both.
    fn fixed(&mut self, size: usize) {
        if size == 1 {
            let bit = u8::from(self.random.one_in(2));
            self.body.bytes.push(bit);
        } else {
            self.random_bytes(size);
        }
    }

    fn random_bytes(&mut self, size: usize) {
        for _ in 0..size {
            let byte = self.byte();
            self.body.bytes.push(byte);
        }
    }

    fn byte(&mut self) -> u8 {
        self.random.next().to_be_bytes()[0]
    }

    fn width(&self, width: Width) -> Width {
        if self.flexible { Width::Varint } else { width }
    }

    fn length(&mut self, field: &'static str, value: Option<usize>, width: Width, nullable: bool) {
        let bytes = match (width, value) {
            (Width::Varint, None) => vec![0],
            (Width::Varint, Some(value)) => varint(u32::try_from(value + 1).expect("small")),
            (Width::Int16, None) => vec![0xff; 2],
            (Width::Int16, Some(value)) => {
                let value = i16::try_from(value).expect("small");
                value.to_be_bytes().to_vec()
            }
            (Width::Int32, None) => vec![0xff; 4],
            (Width::Int32, Some(value)) => {
                let value = i32::try_from(value).expect("small");
                value.to_be_bytes().to_vec()
            }
        };
        self.body.lengths.push(Length {
            field,
            offset: self.body.bytes.len(),
            size: bytes.len(),
            width,
            nullable,
            tags: false,
        });
        self.body.bytes.extend(bytes);
    }

    fn raw_length(&mut self, field: &'static str, value: usize, nullable: bool, tags: bool) {
        let bytes = varint(u32::try_from(value).expect("small"));
        self.body.lengths.push(Length {
            field,
            offset: self.body.bytes.len(),
            size: bytes.len(),
            width: Width::Varint,
            nullable,
            tags,
        });
        self.body.bytes.extend(bytes);
    }
}
