//! Kafka's texts for its error codes (protocol guide, "Error codes"), where a broker sends none.

use kafka_protocol::error::ResponseError;

/// The text that Kafka's own tools print for a code.
#[must_use]
pub fn error_text(code: i16) -> String {
    let known = TEXTS.iter().find(|(known, _)| *known == code);
    match (known, ResponseError::try_from_code(code)) {
        (Some((_, text)), _) => (*text).to_owned(),
        (None, Some(error)) => format!("error {code} ({error})"),
        (None, None) => "no error".to_owned(),
    }
}

const TEXTS: &[(i16, &str)] = &[
    (
        -1,
        "The server experienced an unexpected error when processing the request.",
    ),
    (
        1,
        "The requested offset is not within the range of offsets maintained by the server.",
    ),
    (
        2,
        "This message has failed its CRC checksum, exceeds the valid size, has a null key for a compacted topic, or is otherwise corrupt.",
    ),
    (3, "This server does not host this topic-partition."),
    (
        5,
        "There is no leader for this topic-partition as we are in the middle of a leadership election.",
    ),
    (
        6,
        "For requests intended only for the leader, this error indicates that the broker is not the current leader. For requests intended for any replica, this error indicates that the broker is not a replica of the topic partition.",
    ),
    (7, "The request timed out."),
    (8, "The broker is not available."),
    (
        10,
        "The request included a message larger than the max message size the server will accept.",
    ),
    (
        14,
        "The coordinator is loading and hence can't process requests.",
    ),
    (15, "The coordinator is not available."),
    (16, "This is not the correct coordinator."),
    (
        17,
        "The request attempted to perform an operation on an invalid topic.",
    ),
    (
        18,
        "The request included message batch larger than the configured segment size on the server.",
    ),
    (
        19,
        "Messages are rejected since there are fewer in-sync replicas than required.",
    ),
    (22, "Specified group generation id is not valid."),
    (
        23,
        "The group member's supported protocols are incompatible with those of existing members or first group member tried to join with empty protocol type or empty protocol list.",
    ),
    (24, "The group id is invalid."),
    (25, "The coordinator is not aware of this member."),
    (27, "The group is rebalancing, so a rejoin is needed."),
    (29, "Topic authorization failed."),
    (30, "Group authorization failed."),
    (31, "Cluster authorization failed."),
    (35, "The version of API is not supported."),
    (36, "Topic with this name already exists."),
    (37, "Number of partitions is below 1."),
    (
        38,
        "Replication factor is below 1 or larger than the number of available brokers.",
    ),
    (39, "Replica assignment is invalid."),
    (40, "Configuration is invalid."),
    (41, "This is not the correct controller for this cluster."),
    (
        42,
        "This most likely occurs because of a request being malformed by the client library or the message was sent to an incompatible broker. See the broker logs for more details.",
    ),
    (45, "The broker received an out of order sequence number."),
    (47, "Producer attempted to produce with an old epoch."),
    (56, "Disk error when trying to access log file on the disk."),
    (60, "A partition reassignment is in progress."),
    (68, "The group is not empty."),
    (69, "The group id does not exist."),
    (73, "Topic deletion is disabled."),
    (
        76,
        "The requesting client does not support the compression type of given partition.",
    ),
    (
        79,
        "The group member needs to have a valid member id before actually entering a consumer group.",
    ),
    (
        86,
        "Deleting offsets of a topic is forbidden while the consumer group is actively subscribed to it.",
    ),
    (
        87,
        "This record has failed the validation on broker and hence will be rejected.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_codes_still_say_their_number() {
        assert_eq!(error_text(81), "error 81 (GroupMaxSizeReached)");
        assert!(error_text(12_345).contains("12345"));
        assert_eq!(error_text(7), "The request timed out.");
    }
}
