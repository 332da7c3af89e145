//! What the walk accepts and refuses, and what its errors say.

use super::*;

fn malformed(api_key: i16, api_version: i16, body: &[u8]) -> (&'static str, usize, Problem) {
    match check(api_key, api_version, body, &Limits::default()) {
        Err(SchemaError::Malformed {
            field,
            offset,
            problem,
            ..
        }) => (field, offset, problem),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_frame_of_50_bytes_that_claims_two_billion_topics_is_refused() {
    let mut body = vec![0x7f, 0xff, 0xff, 0xff];
    body.resize(50, 0);
    assert_eq!(malformed(3, 1, &body), ("topics", 4, Problem::Truncated));
    let mut body = vec![0xff, 0xff, 0xff, 0xff, 0x0f];
    body.resize(50, 0);
    assert_eq!(malformed(3, 12, &body), ("topics", 5, Problem::Truncated));
}

#[test]
fn an_error_names_the_api_the_field_the_byte_and_the_problem() {
    // Metadata v1: one topic, whose name is longer than the request.
    let body = [0, 0, 0, 1, 0, 9, b'a'];
    let error = check(3, 1, &body, &Limits::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Metadata v1, field name, byte 6: needs more bytes than the request has"
    );
    assert_eq!(
        check(18, 5, &[], &Limits::default())
            .unwrap_err()
            .to_string(),
        "ApiVersions has no version 5"
    );
    assert_eq!(
        check(999, 0, &[], &Limits::default()),
        Err(SchemaError::UnknownApi { api_key: 999 })
    );
    assert!(matches!(
        check(0, -1, &[], &Limits::default()),
        Err(SchemaError::UnsupportedVersion { .. })
    ));
}

#[test]
fn null_is_refused_in_the_versions_that_do_not_name_it() {
    let null = [0xff; 4];
    assert_eq!(malformed(3, 0, &null), ("topics", 4, Problem::Null));
    assert_eq!(check(3, 1, &null, &Limits::default()), Ok(()));
}

#[test]
fn lengths_below_minus_one_and_overlong_varints_are_refused() {
    let body = [0xff, 0xff, 0xff, 0xfe];
    assert_eq!(
        malformed(3, 1, &body),
        ("topics", 4, Problem::NegativeLength)
    );
    for body in [
        [0x80, 0x80, 0x80, 0x80, 0x80],
        [0x80, 0x80, 0x80, 0x80, 0x10],
    ] {
        assert_eq!(malformed(3, 12, &body).2, Problem::VarintTooLong);
    }
    // Longer than needed is Kafka's to read, too: two bytes for a count of null.
    assert_eq!(
        check(3, 12, &[0x80, 0, 0, 0, 0], &Limits::default()),
        Ok(())
    );
}

#[test]
fn a_string_that_is_not_utf8_is_refused() {
    let body = [0, 0, 0, 1, 0, 2, 0xc3, 0x28];
    assert_eq!(malformed(3, 1, &body), ("name", 8, Problem::NotUtf8));
}

/// Fetch v17 up to its tagged fields, with no topics.
const FETCH_V17: [u8; 25] = [
    0, 0, 1, 0xf4, // max_wait_ms
    0, 0, 0, 1, // min_bytes
    0, 1, 0, 0, // max_bytes
    0, // isolation_level
    0, 0, 0, 0, // session_id
    0, 0, 0, 0, // session_epoch
    1, // topics
    1, // forgotten_topics_data
    1, // rack_id
    0, // number of tagged fields
];

fn fetch_v17(tagged_fields: &[u8]) -> Vec<u8> {
    [&FETCH_V17[..24], tagged_fields].concat()
}

#[test]
fn a_tagged_field_must_fill_its_size() {
    let limits = Limits::default();
    assert_eq!(check(1, 17, &FETCH_V17, &limits), Ok(()));
    assert_eq!(
        check(1, 17, &fetch_v17(&[1, 0, 2, 2, b'c']), &limits),
        Ok(())
    );
    let longer = fetch_v17(&[1, 0, 3, 2, b'c', 0]);
    assert_eq!(
        malformed(1, 17, &longer),
        ("cluster_id", 29, Problem::TagSize)
    );
    let shorter = fetch_v17(&[1, 0, 2, 3, b'c', b'c']);
    assert_eq!(
        malformed(1, 17, &shorter),
        ("cluster_id", 28, Problem::Truncated)
    );
}

#[test]
fn a_tag_of_a_later_version_is_refused_and_an_unknown_one_skipped_up_to_the_limit() {
    // replica_state (tag 1) came with v15.
    let mut v14 = fetch_v17(&[1, 1, 0]);
    v14.splice(0..0, [0xff; 4]); // replica_id
    assert_eq!(malformed(1, 14, &v14).2, Problem::TagOfOtherVersion);

    let unknown = fetch_v17(&[2, 7, 1, 0xaa, 8, 0]);
    let limits = |unknown_tagged_fields| Limits {
        unknown_tagged_fields,
        ..Limits::default()
    };
    assert_eq!(check(1, 17, &unknown, &limits(2)), Ok(()));
    assert!(matches!(
        check(1, 17, &unknown, &limits(1)),
        Err(SchemaError::Malformed {
            problem: Problem::TooManyTaggedFields,
            ..
        })
    ));
}

#[test]
fn the_marker_of_a_nullable_structure_is_1_or_minus_1() {
    // DescribeTopicPartitions v0: no topics, a limit, the cursor, no tagged fields.
    let body = |cursor: &[u8]| [&[1, 0, 0, 0, 9], cursor, &[0]].concat();
    let limits = Limits::default();
    assert_eq!(check(75, 0, &body(&[0xff]), &limits), Ok(()));
    assert_eq!(
        check(75, 0, &body(&[1, 2, b't', 0, 0, 0, 1, 0]), &limits),
        Ok(())
    );
    for marker in [0, 2, 0x80] {
        assert_eq!(
            malformed(75, 0, &body(&[marker])),
            ("cursor", 6, Problem::StructMarker)
        );
    }
}

/// Whether a structure has a byte in `version`: every field that is there has one at least.
fn has_bytes(fields: &[Field], version: i16, flexible: bool) -> bool {
    flexible
        || fields
            .iter()
            .any(|field| field.is_in(version) && field.tag.is_none())
}

/// [`Walk::elements`] refuses a count beyond the bytes left; that is right only if this holds.
#[test]
fn every_array_element_has_at_least_one_byte() {
    fn visit(schema: &Schema, fields: &[Field], version: i16) {
        let flexible = version >= schema.flexible_since;
        for field in fields.iter().filter(|field| field.is_in(version)) {
            match field.kind {
                Kind::Array(Element::Struct(fields)) => {
                    let has_bytes = has_bytes(fields, version, flexible);
                    assert!(has_bytes, "{} v{version} {}", schema.name, field.name);
                    visit(schema, fields, version);
                }
                Kind::Array(Element::Fixed(size)) => assert!(size > 0),
                Kind::Struct(fields) => visit(schema, fields, version),
                Kind::Array(Element::String) | Kind::Fixed(_) | Kind::String | Kind::Bytes => {}
            }
        }
    }
    for schema in (0..i16::MAX).filter_map(apis::schema) {
        for version in schema.versions() {
            visit(schema, schema.fields, version);
        }
    }
}

#[test]
fn a_header_without_client_id_or_with_a_lying_one_is_told_apart() {
    let limits = Limits::default();
    let produce = [0, 0, 0, 3, 0, 0, 0, 7, 0xff, 0xff, 0xaa];
    let header = request_header(&produce, &limits).unwrap();
    assert_eq!(header.client_id, None);
    assert_eq!((header.correlation_id, header.body_offset), (7, 10));

    let lying = [0, 0, 0, 3, 0, 0, 0, 7, 0x7f, 0xff, 0xaa];
    assert_eq!(
        request_header(&lying, &limits).unwrap_err().to_string(),
        "RequestHeader v3, field client_id, byte 10: needs more bytes than the request has"
    );
    let unknown = [0x47, 0x45, 0x54, 0x20, 0x2f, 0x20, 0x48, 0x54];
    assert_eq!(
        request_header(&unknown, &limits),
        Err(SchemaError::UnknownApi { api_key: 0x4745 })
    );
}
