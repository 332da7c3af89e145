//! Writes the corpora to start from: `corpus/frame/`, frames of every API in every version;
//! `corpus/batch/`, batches of every codec and the message sets that they convert to; `corpus/files/`,
//! one of each small file.
use std::path::Path;
use std::{fs, io};

use kafka_protocol::messages::ApiKey;
use ringlog::net::schema::apis;
use ringlog_engine::record::conversion::{ConversionLimits, down_convert};
use ringlog_engine::record::{BatchBuilder, Compression, Header};

#[expect(dead_code, reason = "the tests use the positions of the lengths, too")]
#[path = "../../server/tests/schema_allocation/generator.rs"]
mod generator;

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    frames(&corpus.join("frame"))?;
    batches(&corpus.join("batch"))?;
    files(&corpus.join("files"))
}

/// The first byte is what the target `files` picks the decoder by.
fn files(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut snapshot = b"\0\0\x01crc_\0\0\0\x01".to_vec();
    snapshot.extend([0; 46]);
    let seeds: [(&str, &[u8]); 9] = [
        ("snapshot", &snapshot),
        ("meta", b"\x01#\nversion=0\ncluster.id=abc\nbroker.id=1\n"),
        ("checkpoint", b"\x020\n2\nalpha 0 17\nbeta 3 9000000000\n"),
        ("epochs", b"\x030\n2\n0 0\n5 1000\n"),
        (
            "metadata",
            b"\x04version: 0\ntopic_id: AAECAwQFBgcICQoLDA0ODw",
        ),
        ("segment", b"\x0500000000000000000017.timeindex.cleaned"),
        ("partition", b"\x05alpha-3.0123456789abcdef-delete"),
        (
            "commit",
            b"\x06\x10\0\x01\0\x01g\0\x05alpha\0\0\0\0\0\x03\0\0\0\0\0\0\0\x07\0\0\0\0\0\0",
        ),
        (
            "topic",
            b"\x07{\"version\":3,\"topic_id\":\"AAECAwQFBgcICQoLDA0ODw\",\"partitions\":{\"0\":[1]}}",
        ),
    ];
    for (name, seed) in seeds {
        fs::write(folder.join(name), seed)?;
    }
    Ok(())
}

fn frames(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut random = generator::Random(0);
    for schema in (0..i16::MAX).filter_map(apis::schema) {
        let api = ApiKey::try_from(schema.api_key).expect("an API of the crate");
        for version in schema.versions() {
            let mut frame = Vec::new();
            frame.extend(schema.api_key.to_be_bytes());
            frame.extend(version.to_be_bytes());
            frame.extend(7_i32.to_be_bytes()); // correlation_id
            frame.extend((-1_i16).to_be_bytes()); // client_id
            if api.request_header_version(version) >= 2 {
                frame.push(0); // tagged fields
            }
            frame.extend(generator::body(schema, version, &mut random).bytes);
            fs::write(folder.join(format!("{}-{version}", schema.name)), frame)?;
        }
    }
    Ok(())
}

fn batches(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let limits = ConversionLimits {
        bytes_max: 1 << 20,
        decompressed_bytes_max: 1 << 20,
    };
    let failed = |error| io::Error::other(format!("{error}"));
    for codec in Compression::ALL {
        for headers in [0, 2] {
            let headers = vec![
                Header {
                    key: b"h",
                    value: None
                };
                headers
            ];
            let mut builder = BatchBuilder::new(codec).producer(5, 0, 9);
            for value in [Some(b"value".as_slice()), Some(&[b'x'; 200]), None] {
                builder
                    .append(1_000, Some(b"key"), value, &headers)
                    .map_err(failed)?;
            }
            let batch = builder.build().map_err(failed)?;
            let name = format!("{}-{}", codec.name(), headers.len());
            fs::write(folder.join(&name), &batch)?;
            if codec == Compression::Zstd {
                continue; // never in a message set
            }
            for magic in [0, 1] {
                let set = down_convert(&batch, magic, 0, &limits).map_err(failed)?;
                fs::write(folder.join(format!("{name}-magic-{magic}")), set.messages)?;
            }
        }
    }
    Ok(())
}
