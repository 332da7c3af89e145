//! DescribeTransactions (65), version 0, and ListTransactions (66), versions 0-1 (KIP-664): there
//! are no transactions.
//!
//! - 66, 1: filter by duration (KIP-994).

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_transactions_response::TransactionState;
use kafka_protocol::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, ListTransactionsRequest,
    ListTransactionsResponse,
};

use crate::dispatch::{Call, Handled};

/// Kafka's names of the states (`TransactionState.scala`).
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

pub(crate) fn describe(call: Call) -> Handled {
    Box::pin(async move {
        let request: DescribeTransactionsRequest = call.decode()?;
        let states = request.transactional_ids.into_iter().map(|id| {
            let error = if id.0.is_empty() {
                ResponseError::InvalidRequest
            } else {
                ResponseError::TransactionalIdNotFound
            };
            TransactionState::default()
                .with_transactional_id(id)
                .with_error_code(error.code())
        });
        let states = states.collect();
        call.ready(&DescribeTransactionsResponse::default().with_transaction_states(states))
    })
}

pub(crate) fn list(call: Call) -> Handled {
    Box::pin(async move {
        let request: ListTransactionsRequest = call.decode()?;
        let mut unknown = request.state_filters;
        unknown.retain(|state| !STATES.contains(&state.as_str()));
        call.ready(&ListTransactionsResponse::default().with_unknown_state_filters(unknown))
    })
}
