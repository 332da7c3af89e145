//! How the console consumer prints a record (Kafka: `DefaultMessageFormatter`).

use std::io::Write;

use ringlog_engine::record::TimestampType;

use super::load_properties;
use super::options::Options;
use crate::cli::tool::{ToolError, ToolResult};
use crate::client::consumer::InRecord;

/// How a record is printed.
#[derive(Clone, Debug)]
pub struct Formatter {
    is_silent: bool,
    timestamp: bool,
    partition: bool,
    offset: bool,
    epoch: bool,
    headers: bool,
    key: bool,
    value: bool,
    key_separator: String,
    line_separator: String,
    headers_separator: String,
    null_literal: String,
    key_deserializer: Deserializer,
    value_deserializer: Deserializer,
    headers_deserializer: Deserializer,
}

/// The deserializers of Kafka that change what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deserializer {
    Bytes,
    Integer,
    Long,
    Short,
    Float,
    Double,
}

impl Deserializer {
    fn of(class: Option<&str>) -> ToolResult<Self> {
        let Some(class) = class else {
            return Ok(Self::Bytes);
        };
        match class.rsplit('.').next().unwrap_or(class) {
            "IntegerDeserializer" => Ok(Self::Integer),
            "LongDeserializer" => Ok(Self::Long),
            "ShortDeserializer" => Ok(Self::Short),
            "FloatDeserializer" => Ok(Self::Float),
            "DoubleDeserializer" => Ok(Self::Double),
            "StringDeserializer"
            | "ByteArrayDeserializer"
            | "BytesDeserializer"
            | "ByteBufferDeserializer"
            | "UUIDDeserializer"
            | "DefaultDecoder"
            | "StringDecoder" => Ok(Self::Bytes),
            _ => Err(ToolError::failed(format!(
                "Unable to instantiate a deserializer from {class}: this tool has no JVM; it knows \
                 String, ByteArray, Integer, Long, Short, Float and Double"
            ))),
        }
    }

    fn text(self, bytes: &[u8]) -> ToolResult<Vec<u8>> {
        fn fixed<const N: usize>(bytes: &[u8]) -> ToolResult<[u8; N]> {
            bytes.try_into().map_err(|_| {
                ToolError::failed(format!(
                    "Size of data received by the deserializer is not {N}"
                ))
            })
        }
        let text = match self {
            Self::Bytes => return Ok(bytes.to_vec()),
            Self::Integer => i32::from_be_bytes(fixed(bytes)?).to_string(),
            Self::Long => i64::from_be_bytes(fixed(bytes)?).to_string(),
            Self::Short => i16::from_be_bytes(fixed(bytes)?).to_string(),
            Self::Float => format!("{:?}", f32::from_be_bytes(fixed(bytes)?)),
            Self::Double => format!("{:?}", f64::from_be_bytes(fixed(bytes)?)),
        };
        Ok(text.into_bytes())
    }
}

impl Formatter {
    /// The formatter that the flags ask for.
    ///
    /// # Errors
    /// If a class is asked for that is not there, or a file cannot be read.
    pub fn from_options(options: &Options) -> ToolResult<Self> {
        let mut properties = match options.last("formatter-config") {
            Some(path) => load_properties(path)?,
            None => Vec::new(),
        };
        properties.extend(options.pairs("property"));
        properties.extend(options.pairs("formatter-property"));
        for (flag, key) in [
            ("key-deserializer", "key.deserializer"),
            ("value-deserializer", "value.deserializer"),
        ] {
            let class = options.last(flag);
            properties.extend(class.map(|class| (key.to_owned(), class.to_owned())));
        }
        let class = options
            .last("formatter")
            .unwrap_or("DefaultMessageFormatter");
        let is_silent = match class.rsplit('.').next().unwrap_or(class) {
            "DefaultMessageFormatter" | "ConsoleConsumer$DefaultMessageFormatter" => false,
            "NoOpMessageFormatter" => true,
            _ => {
                return Err(ToolError::failed(format!(
                    "the formatter {class} is not there: this tool has no JVM; \
                     `ringlog groups` shows committed offsets"
                )));
            }
        };
        Self::new(&properties, is_silent)
    }

    /// A formatter with Kafka's properties (`print.key`, `key.separator`, ...).
    ///
    /// # Errors
    /// If a deserializer is not known.
    pub fn new(properties: &[(String, String)], is_silent: bool) -> ToolResult<Self> {
        let find = |name: &str| {
            let mut found = properties.iter().rev().filter(|(key, _)| key == name);
            found.next().map(|(_, value)| value.as_str())
        };
        let is = |name: &str, default: bool| {
            find(name).map_or(default, |value| value.trim().eq_ignore_ascii_case("true"))
        };
        let text = |name: &str, default: &str| find(name).unwrap_or(default).to_owned();
        Ok(Self {
            is_silent,
            timestamp: is("print.timestamp", false),
            partition: is("print.partition", false),
            offset: is("print.offset", false),
            epoch: is("print.epoch", false),
            headers: is("print.headers", false),
            key: is("print.key", false),
            value: is("print.value", true),
            key_separator: text("key.separator", "\t"),
            line_separator: text("line.separator", "\n"),
            headers_separator: text("headers.separator", ","),
            null_literal: text("null.literal", "null"),
            key_deserializer: Deserializer::of(find("key.deserializer"))?,
            value_deserializer: Deserializer::of(find("value.deserializer"))?,
            headers_deserializer: Deserializer::of(find("headers.deserializer"))?,
        })
    }

    /// Writes one record.
    ///
    /// # Errors
    /// If a value does not fit its deserializer, or the output is closed.
    pub fn write(&self, record: &InRecord, out: &mut dyn Write) -> ToolResult {
        if self.is_silent {
            return Ok(());
        }
        let mut columns: Vec<Vec<u8>> = Vec::new();
        if self.timestamp {
            let kind = match record.timestamp_type {
                Some(TimestampType::CreateTime) => "CreateTime",
                Some(TimestampType::LogAppendTime) => "LogAppendTime",
                None => "",
            };
            columns.push(match kind {
                "" => b"NO_TIMESTAMP".to_vec(),
                kind => format!("{kind}:{}", record.timestamp).into_bytes(),
            });
        }
        if self.partition {
            columns.push(format!("Partition:{}", record.partition.partition).into_bytes());
        }
        if self.offset {
            columns.push(format!("Offset:{}", record.offset).into_bytes());
        }
        if self.epoch {
            columns.push(format!("Epoch:{}", record.leader_epoch).into_bytes());
        }
        if self.headers {
            columns.push(self.headers_text(record)?);
        }
        if self.key {
            columns.push(self.field(record.key.as_deref(), self.key_deserializer)?);
        }
        if self.value {
            columns.push(self.field(record.value.as_deref(), self.value_deserializer)?);
        }
        for (index, column) in columns.iter().enumerate() {
            if index > 0 {
                out.write_all(self.key_separator.as_bytes())?;
            }
            out.write_all(column)?;
        }
        out.write_all(self.line_separator.as_bytes())?;
        Ok(())
    }

    fn headers_text(&self, record: &InRecord) -> ToolResult<Vec<u8>> {
        if record.headers.is_empty() {
            return Ok(b"NO_HEADERS".to_vec());
        }
        let mut text = Vec::new();
        for (index, (key, value)) in record.headers.iter().enumerate() {
            if index > 0 {
                text.extend_from_slice(self.headers_separator.as_bytes());
            }
            text.extend_from_slice(key.as_bytes());
            text.push(b':');
            text.extend(self.field(value.as_deref(), self.headers_deserializer)?);
        }
        Ok(text)
    }

    fn field(&self, bytes: Option<&[u8]>, deserializer: Deserializer) -> ToolResult<Vec<u8>> {
        match bytes {
            Some(bytes) => deserializer.text(bytes),
            None => Ok(self.null_literal.as_bytes().to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::TopicPartition;

    fn formatted(properties: &[(&str, &str)], record: &InRecord) -> String {
        let properties = properties.iter();
        let properties: Vec<_> = properties
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let mut out = Vec::new();
        let formatter = Formatter::new(&properties, false).unwrap();
        formatter.write(record, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn records_are_printed_as_kafkas_default_formatter_does() {
        let mut record = InRecord {
            partition: TopicPartition::new("t", 3),
            offset: 7,
            timestamp: 99,
            timestamp_type: Some(TimestampType::CreateTime),
            leader_epoch: 0,
            key: None,
            value: Some(b"v".to_vec()),
            headers: Vec::new(),
        };
        assert_eq!(formatted(&[], &record), "v\n");
        let all = [
            ("print.timestamp", "true"),
            ("print.partition", "true"),
            ("print.offset", "true"),
            ("print.headers", "true"),
            ("print.key", "true"),
        ];
        assert_eq!(
            formatted(&all, &record),
            "CreateTime:99\tPartition:3\tOffset:7\tNO_HEADERS\tnull\tv\n"
        );
        record.headers = vec![
            ("a".to_owned(), Some(b"1".to_vec())),
            ("b".to_owned(), None),
        ];
        assert_eq!(
            formatted(
                &[("print.headers", "true"), ("key.separator", "|")],
                &record
            ),
            "a:1,b:null|v\n"
        );
        record.value = Some(7_i64.to_be_bytes().to_vec());
        let long = "org.apache.kafka.common.serialization.LongDeserializer";
        assert_eq!(formatted(&[("value.deserializer", long)], &record), "7\n");
    }
}
