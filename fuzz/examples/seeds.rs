//! Writes the corpus to start from: `corpus/frame/`, frames of every API in every version.
use std::{fs, io, path::Path};

use kafka_protocol::messages::ApiKey;
use ringlog::net::schema::apis;

#[expect(dead_code, reason = "the tests use the positions of the lengths, too")]
#[path = "../../server/tests/schema_allocation/generator.rs"]
mod generator;

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/frame");
    fs::create_dir_all(&folder)?;
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
