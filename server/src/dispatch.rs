//! From a frame to its handler: one table of API key, versions and handler.
//!
//! ApiVersions answers from this table, so it lists only what works.

use std::ops::RangeInclusive;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use crate::handlers::{
    acls, alter_configs, api_versions, client_quotas, create_partitions, create_topics,
    delete_records, delete_topics, describe_cluster, describe_configs, describe_log_dirs,
    describe_producers, describe_transactions, describe_user_scram_credentials, elect_leaders,
    fetch, find_coordinator, group, init_producer_id, list_offsets, metadata,
    offset_for_leader_epoch, produce, reassignments,
};
use crate::metrics::trace::Trace;
use crate::net::connection::Connection;
use crate::net::response::Response;
use crate::net::schema::{self, Limits, SchemaError};
use crate::shard::Shard;

/// The answer to a request. `None` in place of a response ends the connection.
pub enum Answer {
    /// No answer is expected (produce with acks=0).
    None,
    /// At hand.
    Ready(Option<Response>),
    /// Under way; later requests of the connection are handled meanwhile.
    Later(LocalBoxFuture<'static, Option<Response>>),
    /// Bytes that are not Kafka's, for a client of another protocol.
    Raw(Bytes),
}

/// The request cannot be answered, the connection ends. The reason is for the log.
#[derive(Debug)]
pub struct Refused(pub String);

/// A request whose lengths have been proven by its bytes.
pub struct Request {
    /// Which API, by its number on the wire.
    pub api_key: i16,
    /// Version of the request.
    pub version: i16,
    /// To be repeated in the answer.
    pub correlation_id: i32,
    /// Name that the client gives itself.
    pub client_id: Option<StrBytes>,
    /// The message.
    pub body: Bytes,
    /// Whether the header of the answer has tagged fields.
    pub flexible_answer: bool,
    /// ApiVersions of a version that we do not have: answered all the same (KIP-511).
    pub unsupported: bool,
}

/// A request with everything that its handler may use.
pub struct Call {
    /// The shard of the connection.
    pub shard: Rc<Shard>,
    /// The connection.
    pub connection: Rc<Connection>,
    /// The request.
    pub request: Request,
    /// Its stamps, if it is sampled.
    pub trace: Option<Rc<Trace>>,
}

impl Call {
    /// Decodes the body.
    ///
    /// # Errors
    /// [`Refused`] with the reason, if the bytes are no such message.
    pub fn decode<M: Decodable>(&self) -> Result<M, Refused> {
        let mut body = self.request.body.clone();
        M::decode(&mut body, self.request.version).map_err(|error| {
            let Request {
                api_key, version, ..
            } = &self.request;
            Refused(format!(
                "request of key {api_key} version {version}: {error}"
            ))
        })
    }

    /// An answer at hand.
    ///
    /// # Errors
    /// [`Refused`] if the message cannot be encoded in this version, which is a fault of ours.
    pub fn ready<M: Encodable>(&self, message: &M) -> Result<Answer, Refused> {
        Response::encode(message, self.request.version)
            .map(|response| Answer::Ready(Some(response)))
            .map_err(|error| Refused(format!("key {}: {error}", self.request.api_key)))
    }

    /// The client's name, empty if it has none.
    pub fn client_id(&self) -> &str {
        self.request.client_id.as_deref().unwrap_or_default()
    }
}

/// What a handler gives.
pub type Handled = LocalBoxFuture<'static, Result<Answer, Refused>>;

/// A row of the table.
pub struct Api {
    /// The API.
    pub key: ApiKey,
    /// The versions that its handler speaks.
    pub versions: RangeInclusive<i16>,
    handler: fn(Call) -> Handled,
}

/// The table.
pub static APIS: &[Api] = &[
    Api {
        key: ApiKey::Produce,
        versions: 0..=11,
        handler: produce::handle,
    },
    Api {
        key: ApiKey::Fetch,
        versions: 0..=17,
        handler: fetch::handle,
    },
    Api {
        key: ApiKey::ListOffsets,
        versions: 0..=9,
        handler: list_offsets::handle,
    },
    Api {
        key: ApiKey::Metadata,
        versions: 0..=12,
        handler: metadata::handle,
    },
    Api {
        key: ApiKey::OffsetCommit,
        versions: 0..=9,
        handler: group::offset_commit,
    },
    Api {
        key: ApiKey::OffsetFetch,
        versions: 0..=9,
        handler: group::offset_fetch,
    },
    Api {
        key: ApiKey::FindCoordinator,
        versions: 0..=6,
        handler: find_coordinator::handle,
    },
    Api {
        key: ApiKey::JoinGroup,
        versions: 0..=9,
        handler: group::join_group,
    },
    Api {
        key: ApiKey::Heartbeat,
        versions: 0..=4,
        handler: group::heartbeat,
    },
    Api {
        key: ApiKey::LeaveGroup,
        versions: 0..=5,
        handler: group::leave_group,
    },
    Api {
        key: ApiKey::SyncGroup,
        versions: 0..=5,
        handler: group::sync_group,
    },
    Api {
        key: ApiKey::DescribeGroups,
        versions: 0..=5,
        handler: group::describe_groups,
    },
    Api {
        key: ApiKey::ListGroups,
        versions: 0..=5,
        handler: group::list_groups,
    },
    Api {
        key: ApiKey::ApiVersions,
        versions: 0..=4,
        handler: api_versions::handle,
    },
    Api {
        key: ApiKey::CreateTopics,
        versions: 0..=7,
        handler: create_topics::handle,
    },
    Api {
        key: ApiKey::DeleteTopics,
        versions: 0..=6,
        handler: delete_topics::handle,
    },
    Api {
        key: ApiKey::DeleteRecords,
        versions: 0..=2,
        handler: delete_records::handle,
    },
    Api {
        key: ApiKey::InitProducerId,
        versions: 0..=5,
        handler: init_producer_id::handle,
    },
    Api {
        key: ApiKey::OffsetForLeaderEpoch,
        versions: 0..=4,
        handler: offset_for_leader_epoch::handle,
    },
    Api {
        key: ApiKey::DescribeAcls,
        versions: 0..=3,
        handler: acls::describe,
    },
    Api {
        key: ApiKey::CreateAcls,
        versions: 0..=3,
        handler: acls::create,
    },
    Api {
        key: ApiKey::DeleteAcls,
        versions: 0..=3,
        handler: acls::delete,
    },
    Api {
        key: ApiKey::DescribeConfigs,
        versions: 0..=4,
        handler: describe_configs::handle,
    },
    Api {
        key: ApiKey::AlterConfigs,
        versions: 0..=2,
        handler: alter_configs::handle,
    },
    Api {
        key: ApiKey::DescribeLogDirs,
        versions: 0..=4,
        handler: describe_log_dirs::handle,
    },
    Api {
        key: ApiKey::CreatePartitions,
        versions: 0..=3,
        handler: create_partitions::handle,
    },
    Api {
        key: ApiKey::DeleteGroups,
        versions: 0..=2,
        handler: group::delete_groups,
    },
    Api {
        key: ApiKey::ElectLeaders,
        versions: 0..=2,
        handler: elect_leaders::handle,
    },
    Api {
        key: ApiKey::IncrementalAlterConfigs,
        versions: 0..=1,
        handler: alter_configs::handle_incremental,
    },
    Api {
        key: ApiKey::AlterPartitionReassignments,
        versions: 0..=0,
        handler: reassignments::alter,
    },
    Api {
        key: ApiKey::ListPartitionReassignments,
        versions: 0..=0,
        handler: reassignments::list,
    },
    Api {
        key: ApiKey::OffsetDelete,
        versions: 0..=0,
        handler: group::offset_delete,
    },
    Api {
        key: ApiKey::DescribeClientQuotas,
        versions: 0..=1,
        handler: client_quotas::describe,
    },
    Api {
        key: ApiKey::AlterClientQuotas,
        versions: 0..=1,
        handler: client_quotas::alter,
    },
    Api {
        key: ApiKey::DescribeUserScramCredentials,
        versions: 0..=0,
        handler: describe_user_scram_credentials::handle,
    },
    Api {
        key: ApiKey::DescribeCluster,
        versions: 0..=1,
        handler: describe_cluster::handle,
    },
    Api {
        key: ApiKey::DescribeProducers,
        versions: 0..=0,
        handler: describe_producers::handle,
    },
    Api {
        key: ApiKey::DescribeTransactions,
        versions: 0..=0,
        handler: describe_transactions::describe,
    },
    Api {
        key: ApiKey::ListTransactions,
        versions: 0..=1,
        handler: describe_transactions::list,
    },
];

fn row(api_key: i16) -> Option<&'static Api> {
    APIS.iter().find(|api| api.key as i16 == api_key)
}

/// Reads the header of a frame and proves the lengths of its body.
///
/// # Errors
/// Why the frame is no request that can be answered.
pub fn parse(mut frame: Bytes) -> Result<Request, String> {
    let limits = Limits::default();
    let header = schema::request_header(&frame, &limits).map_err(|error| error.to_string())?;
    let client_id = match header.client_id {
        Some(name) => {
            let bytes = frame.slice_ref(name.as_bytes());
            Some(StrBytes::from_utf8(bytes).map_err(|error| error.to_string())?)
        }
        None => None,
    };
    let (api_key, version) = (header.api_key, header.api_version);
    let (correlation_id, header_bytes) = (header.correlation_id, header.body_offset);
    let body = frame.split_off(header_bytes);
    let unsupported = match row(api_key) {
        None => return Err(format!("no API with key {api_key} is served")),
        Some(api) if api.versions.contains(&version) => {
            schema::check(api_key, version, &body, &limits)
                .map_err(|error: SchemaError| error.to_string())?;
            false
        }
        Some(Api {
            key: ApiKey::ApiVersions,
            ..
        }) => true,
        Some(api) => {
            let (name, versions) = (api.key, &api.versions);
            return Err(format!(
                "{name:?} version {version} was asked, {versions:?} are served"
            ));
        }
    };
    let flexible_answer = !unsupported
        && row(api_key).is_some_and(|api| api.key.response_header_version(version) >= 1);
    Ok(Request {
        api_key,
        version,
        correlation_id,
        client_id,
        body,
        flexible_answer,
        unsupported,
    })
}

/// Hands a request to its handler.
///
/// # Errors
/// [`Refused`] if the connection must end.
pub async fn dispatch(call: Call) -> Result<Answer, Refused> {
    let api_key = call.request.api_key;
    let api = row(api_key).ok_or_else(|| Refused(format!("no API has key {api_key}")))?;
    (api.handler)(call).await
}
