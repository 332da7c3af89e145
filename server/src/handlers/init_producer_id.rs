//! InitProducerId (22), versions 0-5: a producer id for an idempotent producer (KIP-98).
//!
//! - 2: flexible. 3: a known producer id, to bump its epoch (KIP-360). 4: PRODUCER_FENCED.
//!   5: transactions, part 2 (KIP-890).
//!
//! Transactional ids are refused until transactions are served.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::metadata::producer_ids;

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(init_producer_id(call))
}

async fn init_producer_id(call: Call) -> Result<Answer, Refused> {
    let request: InitProducerIdRequest = call.decode()?;
    let failed = |error: ResponseError| {
        InitProducerIdResponse::default()
            .with_error_code(error.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    if let Some(id) = &request.transactional_id {
        log::info!(
            "Transactional id '{}' refused: transactions are not served yet",
            id.as_str()
        );
        return call.ready(&failed(ResponseError::TransactionalIdAuthorizationFailed));
    }
    // A known id is given a new one: the old one's state stays behind, as Kafka does for
    // producers without a transactional id (TransactionCoordinator.handleInitProducerId).
    match producer_ids::next_producer_id(&call.shard).await {
        Ok(id) => call.ready(
            &InitProducerIdResponse::default()
                .with_producer_id(ProducerId(id))
                .with_producer_epoch(0),
        ),
        Err(refusal) => {
            log::error!("No producer id: {}", refusal.message);
            call.ready(&failed(refusal.error))
        }
    }
}
