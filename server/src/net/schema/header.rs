//! The request header, versions 0 to 2, in front of every request body.
//!
//! ```text
//! offset size  field           header version
//!  0     2     request_api_key
//!  2     2     request_api_version
//!  4     4     correlation_id
//!  8     2     client_id       1, 2: length, -1 = null; not compact even in 2
//! 10     ..    client_id
//!        ..    tagged fields   2
//! ```
//! All integers big-endian. The header's version follows from the request's key and version; it is
//! read for a version that the server does not support too, because `ApiVersions` must be
//! answered then (KIP-511).

use kafka_protocol::messages::ApiKey;

use super::{Limits, Problem, SchemaError, Walk};

/// A request's header, and where its body begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// Kafka's number of the API.
    pub api_key: i16,
    /// The version of the request; not yet known to be supported.
    pub api_version: i16,
    /// The number that the response must carry.
    pub correlation_id: i32,
    /// The client's name for itself.
    pub client_id: Option<&'a str>,
    /// Offset of the body in the frame (the frame without its size).
    pub body_offset: usize,
}

/// Reads the header at the start of `frame` (what follows the four bytes of size).
///
/// # Errors
/// [`SchemaError::UnknownApi`] for a key that is not Kafka's, else
/// [`SchemaError::Malformed`] with `RequestHeader` as the API.
pub fn request_header<'a>(
    frame: &'a [u8],
    limits: &Limits,
) -> Result<RequestHeader<'a>, SchemaError> {
    let mut walk = Walk::new(frame, 0, false, limits);
    let malformed = |walk: &Walk<'_>, problem| walk.error("RequestHeader", frame, problem);

    let (api_key, api_version, correlation_id) =
        fixed_part(&mut walk).map_err(|problem| malformed(&walk, problem))?;
    let Ok(api) = ApiKey::try_from(api_key) else {
        return Err(SchemaError::UnknownApi { api_key });
    };
    let client_id = variable_part(&mut walk, api.request_header_version(api_version))
        .map_err(|problem| malformed(&walk, problem))?;
    Ok(RequestHeader {
        api_key,
        api_version,
        correlation_id,
        client_id,
        body_offset: frame.len().saturating_sub(walk.rest.len()),
    })
}

fn fixed_part(walk: &mut Walk<'_>) -> Result<(i16, i16, i32), Problem> {
    walk.field = "request_api_key";
    let api_key = walk.int16()?;
    walk.field = "request_api_version";
    let api_version = walk.int16()?;
    walk.version = api_version;
    walk.field = "correlation_id";
    Ok((api_key, api_version, walk.int32()?))
}

fn variable_part<'a>(walk: &mut Walk<'a>, header_version: i16) -> Result<Option<&'a str>, Problem> {
    if header_version < 1 {
        return Ok(None);
    }
    walk.field = "client_id";
    let length = walk.length_16()?;
    let client_id = walk.string(length, true)?;
    if header_version >= 2 {
        walk.field = "tagged fields";
        walk.tagged_fields(&[])?;
    }
    Ok(client_id)
}
