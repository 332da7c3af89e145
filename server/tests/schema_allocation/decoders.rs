//! The message crate's decoder of every API that has a schema, behind one signature.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable};

/// What the crate made of a body.
pub(crate) struct Decoded {
    /// Bytes that the decoder left unread.
    pub(crate) left: usize,
    /// The decoded request, encoded again; `None` if the crate refused to.
    pub(crate) encoded: Option<Bytes>,
}

/// Decodes `body`, and encodes the result again if `encode` is set.
pub(crate) fn decode(api_key: i16, api_version: i16, body: Bytes, encode: bool) -> Option<Decoded> {
    let api = ApiKey::try_from(api_key).expect("every schema is of an API that the crate has");
    macro_rules! decode {
        ($($name:ident => $request:ty,)*) => {
            match api {
                $(ApiKey::$name => one::<$request>(api_version, body, encode),)*
                other => panic!("{other:?} has a schema and no decoder here"),
            }
        };
    }
    decode! {
        Produce => ProduceRequest,
        Fetch => FetchRequest,
        ListOffsets => ListOffsetsRequest,
        Metadata => MetadataRequest,
        OffsetCommit => OffsetCommitRequest,
        OffsetFetch => OffsetFetchRequest,
        FindCoordinator => FindCoordinatorRequest,
        JoinGroup => JoinGroupRequest,
        Heartbeat => HeartbeatRequest,
        LeaveGroup => LeaveGroupRequest,
        SyncGroup => SyncGroupRequest,
        DescribeGroups => DescribeGroupsRequest,
        ListGroups => ListGroupsRequest,
        SaslHandshake => SaslHandshakeRequest,
        ApiVersions => ApiVersionsRequest,
        CreateTopics => CreateTopicsRequest,
        DeleteTopics => DeleteTopicsRequest,
        DeleteRecords => DeleteRecordsRequest,
        InitProducerId => InitProducerIdRequest,
        OffsetForLeaderEpoch => OffsetForLeaderEpochRequest,
        AddPartitionsToTxn => AddPartitionsToTxnRequest,
        AddOffsetsToTxn => AddOffsetsToTxnRequest,
        EndTxn => EndTxnRequest,
        WriteTxnMarkers => WriteTxnMarkersRequest,
        TxnOffsetCommit => TxnOffsetCommitRequest,
        DescribeAcls => DescribeAclsRequest,
        CreateAcls => CreateAclsRequest,
        DeleteAcls => DeleteAclsRequest,
        DescribeConfigs => DescribeConfigsRequest,
        AlterConfigs => AlterConfigsRequest,
        DescribeLogDirs => DescribeLogDirsRequest,
        CreatePartitions => CreatePartitionsRequest,
        DeleteGroups => DeleteGroupsRequest,
        ElectLeaders => ElectLeadersRequest,
        IncrementalAlterConfigs => IncrementalAlterConfigsRequest,
        AlterPartitionReassignments => AlterPartitionReassignmentsRequest,
        ListPartitionReassignments => ListPartitionReassignmentsRequest,
        OffsetDelete => OffsetDeleteRequest,
        DescribeClientQuotas => DescribeClientQuotasRequest,
        AlterClientQuotas => AlterClientQuotasRequest,
        DescribeUserScramCredentials => DescribeUserScramCredentialsRequest,
        DescribeCluster => DescribeClusterRequest,
        DescribeProducers => DescribeProducersRequest,
        DescribeTransactions => DescribeTransactionsRequest,
        ListTransactions => ListTransactionsRequest,
        DescribeTopicPartitions => DescribeTopicPartitionsRequest,
    }
}

fn one<R: Decodable + Encodable>(
    api_version: i16,
    mut body: Bytes,
    encode: bool,
) -> Option<Decoded> {
    let request = R::decode(&mut body, api_version).ok()?;
    let encoded = if encode {
        let mut bytes = BytesMut::new();
        let done = request.encode(&mut bytes, api_version);
        done.ok().map(|()| bytes.freeze())
    } else {
        None
    };
    Some(Decoded {
        left: body.len(),
        encoded,
    })
}
