//! How calls fail, and the error codes of Kafka's that the client itself acts on.

use kafka_protocol::protocol::StrBytes;

use super::error_text::error_text;

/// Kafka error codes that the client itself acts on.
pub mod code {
    /// OFFSET_OUT_OF_RANGE
    pub const OFFSET_OUT_OF_RANGE: i16 = 1;
    /// UNKNOWN_TOPIC_OR_PARTITION
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    /// LEADER_NOT_AVAILABLE
    pub const LEADER_NOT_AVAILABLE: i16 = 5;
    /// NOT_LEADER_OR_FOLLOWER
    pub const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    /// COORDINATOR_LOAD_IN_PROGRESS
    pub const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
    /// COORDINATOR_NOT_AVAILABLE
    pub const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    /// NOT_COORDINATOR
    pub const NOT_COORDINATOR: i16 = 16;
    /// ILLEGAL_GENERATION
    pub const ILLEGAL_GENERATION: i16 = 22;
    /// UNKNOWN_MEMBER_ID
    pub const UNKNOWN_MEMBER_ID: i16 = 25;
    /// REBALANCE_IN_PROGRESS
    pub const REBALANCE_IN_PROGRESS: i16 = 27;
    /// UNSUPPORTED_VERSION
    pub const UNSUPPORTED_VERSION: i16 = 35;
    /// TOPIC_ALREADY_EXISTS
    pub const TOPIC_ALREADY_EXISTS: i16 = 36;
    /// NOT_CONTROLLER
    pub const NOT_CONTROLLER: i16 = 41;
    /// DUPLICATE_SEQUENCE_NUMBER
    pub const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;
    /// GROUP_ID_NOT_FOUND
    pub const GROUP_ID_NOT_FOUND: i16 = 69;
    /// MEMBER_ID_REQUIRED
    pub const MEMBER_ID_REQUIRED: i16 = 79;
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No address of the bootstrap list accepts connections.
    #[error(
        "nothing answers at {address}: {reason}\n   | start a broker with \
         `bin/kafka-server-start.sh config/server.properties` (or `ringlog`), or name another \
         with --bootstrap-server HOST:PORT"
    )]
    NothingAnswers {
        /// The list as it was given.
        address: String,
        /// What the system said about the last address tried.
        reason: String,
    },
    /// An address that cannot be one.
    #[error("'{0}' is no HOST:PORT")]
    BadAddress(String),
    /// The connection broke or an answer did not come in time.
    #[error("{address}: {what}")]
    Connection {
        /// The broker.
        address: String,
        /// What went wrong, and on which request.
        what: String,
    },
    /// The broker speaks no version of this API that we speak.
    #[error("{address} does not support {api}: it has {theirs}, this tool speaks {ours}")]
    Unsupported {
        /// The broker.
        address: String,
        /// Kafka's name of the API.
        api: String,
        /// Their versions, or "none".
        theirs: String,
        /// Our versions.
        ours: String,
    },
    /// An answer that does not parse.
    #[error("{address}: bad answer to {api}: {what}")]
    BadAnswer {
        /// The broker.
        address: String,
        /// Kafka's name of the API.
        api: String,
        /// What is wrong with it.
        what: String,
    },
    /// An error code of Kafka's.
    #[error("{message}")]
    Kafka {
        /// The code.
        code: i16,
        /// The broker's message, or Kafka's text for the code.
        message: String,
    },
    /// A record batch could not be built or read.
    #[error("{0}")]
    Records(#[from] ringlog_engine::record::BatchError),
}

impl ClientError {
    /// The error of a code, with the broker's own message if it sent one.
    #[must_use]
    pub fn kafka(code: i16, message: Option<&str>) -> Self {
        let message = match message {
            Some(message) if !message.is_empty() => message.to_owned(),
            _ => error_text(code),
        };
        Self::Kafka { code, message }
    }

    /// The code, if it is Kafka's error.
    #[must_use]
    pub fn code(&self) -> Option<i16> {
        match self {
            Self::Kafka { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// `Ok` for code 0.
///
/// # Errors
/// [`ClientError::Kafka`] for any other.
pub fn check(code: i16, message: Option<&StrBytes>) -> Result<(), ClientError> {
    if code == 0 {
        return Ok(());
    }
    Err(ClientError::kafka(code, message.map(StrBytes::as_str)))
}
