//! DeleteTopics (20), versions 0-6.
//!
//! - 4: flexible. 5: error messages. 6: topics by id (KIP-516).

use kafka_protocol::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::dispatch::{Answer, Call, Handled, Refused};
use crate::metadata::controller::Refusal;
use crate::metadata::deletion;

pub(crate) fn handle(call: Call) -> Handled {
    Box::pin(delete_topics(call))
}

async fn delete_topics(call: Call) -> Result<Answer, Refused> {
    let request: DeleteTopicsRequest = call.decode()?;
    let wanted = if call.request.version >= 6 {
        request.topics
    } else {
        let by_name = |name| DeleteTopicState::default().with_name(Some(name));
        request.topic_names.into_iter().map(by_name).collect()
    };
    let mut response = DeleteTopicsResponse::default();
    for state in wanted {
        response.responses.push(delete(&call, state).await);
    }
    call.ready(&response)
}

async fn delete(call: &Call, state: DeleteTopicState) -> DeletableTopicResult {
    let image = call.shard.image();
    let name = match (&state.name, state.topic_id.is_nil()) {
        (Some(name), true) => Ok(name.to_string()),
        (None, false) => match image.topic_by_id(state.topic_id) {
            Some(topic) => Ok(topic.name.clone()),
            None => Err(refusal(
                ResponseError::UnknownTopicId,
                "no topic has this id",
            )),
        },
        _ => Err(refusal(
            ResponseError::InvalidRequest,
            "a topic is named by name or by id",
        )),
    };
    let result = match &name {
        Ok(name) => deletion::delete(&call.shard, name.clone()).await,
        Err(refusal) => Err(refusal.clone()),
    };
    let answer = DeletableTopicResult::default().with_topic_id(state.topic_id);
    let answer = match &name {
        Ok(name) => answer.with_name(Some(TopicName(StrBytes::from_string(name.clone())))),
        Err(_) => answer.with_name(state.name),
    };
    match result {
        Ok(id) if call.request.version >= 6 => answer.with_topic_id(id),
        Ok(_) => answer,
        Err(Refusal { error, message }) => answer.with_error_code(error.code()).with_error_message(
            (call.request.version >= 5).then(|| StrBytes::from_string(message)),
        ),
    }
}

fn refusal(error: ResponseError, message: &str) -> Refusal {
    Refusal {
        error,
        message: message.to_owned(),
    }
}
