//! DescribeCluster (60), versions 0-1 (KIP-700).
//!
//! - 1: type of the endpoint that is asked for (KIP-919); here are brokers only.

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;

use crate::dispatch::{Call, Handled};
use crate::handlers::metadata::{CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED};

/// `EndpointType` of brokers and of controllers.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;
/// Errors that the message crate does not know.
const MISMATCHED_ENDPOINT_TYPE: i16 = 114;
const UNSUPPORTED_ENDPOINT_TYPE: i16 = 115;

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(async move {
        let request: DescribeClusterRequest = call.decode()?;
        let mut response = DescribeClusterResponse::default()
            .with_cluster_authorized_operations(OPERATIONS_NOT_ASKED)
            .with_controller_id(BrokerId(-1));
        if call.request.version >= 1 && request.endpoint_type != BROKERS {
            let (code, message) = match request.endpoint_type {
                CONTROLLERS => (
                    MISMATCHED_ENDPOINT_TYPE,
                    "The request was sent to an endpoint of type BROKER, but we wanted an endpoint \
                     of type CONTROLLER",
                ),
                _ => (
                    UNSUPPORTED_ENDPOINT_TYPE,
                    "The endpoint type of the request is unknown",
                ),
            };
            response.error_code = code;
            response.error_message = Some(StrBytes::from_static_str(message));
            return call.ready(&response);
        }
        let broker = &call.shard.broker;
        let connection = &call.connection;
        let nodes = broker.nodes_for(connection.listener, connection.dialled);
        response.cluster_id = StrBytes::from_string(broker.cluster_id.clone());
        response.controller_id = BrokerId(broker.config.node_id);
        let told = nodes.into_iter().map(|node| {
            DescribeClusterBroker::default()
                .with_broker_id(BrokerId(node.id))
                .with_host(StrBytes::from_string(node.host))
                .with_port(node.port)
                .with_rack(node.rack.map(StrBytes::from_string))
        });
        response.brokers = told.collect();
        if request.include_cluster_authorized_operations {
            response.cluster_authorized_operations = CLUSTER_OPERATIONS;
        }
        call.ready(&response)
    })
}
