//! ApiVersions (18), versions 0-4: which APIs this broker serves, from the dispatch table.
//!
//! - 1: throttle time. 3: flexible, the client's software name and version (KIP-511); the answer's
//!   header stays version 0. 4: fixes the default of `finalized_features_epoch` (KIP-1022).
//! - A version that we do not have is answered in version 0 with UNSUPPORTED_VERSION, and the
//!   client asks again in one that we have.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use crate::dispatch::{APIS, Answer, Call, Handled, Refused};
use crate::net::response::Response;

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(async move { answer(&call) })
}

fn answer(call: &Call) -> Result<Answer, Refused> {
    let api_keys = APIS
        .iter()
        .map(|api| {
            ApiVersion::default()
                .with_api_key(api.key as i16)
                .with_min_version(*api.versions.start())
                .with_max_version(*api.versions.end())
        })
        .collect();
    let response = ApiVersionsResponse::default().with_api_keys(api_keys);
    if call.request.unsupported {
        let response = response.with_error_code(ResponseError::UnsupportedVersion.code());
        let response = Response::encode(&response, 0).map_err(Refused)?;
        return Ok(Answer::Ready(Some(response)));
    }
    let request: ApiVersionsRequest = call.decode()?;
    if call.request.version >= 3 {
        let software = (
            request.client_software_name,
            request.client_software_version,
        );
        if !is_software_word(&software.0) || !is_software_word(&software.1) {
            let invalid = ApiVersionsResponse::default()
                .with_error_code(ResponseError::InvalidRequest.code());
            return call.ready(&invalid);
        }
        call.connection.software.replace(Some(software));
    }
    call.ready(&response)
}

/// `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?` (KIP-511, Kafka's ApiVersionsRequest).
fn is_software_word(word: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let bytes = word.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().copied().all(inner)
}
