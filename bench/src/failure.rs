//! Why a run is no result: one enum, told once by `main`, always with a non-zero exit code.

use crate::report::Summary;
use crate::verify::Violation;

/// What ended a run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The broker closed a connection: mostly because it died.
    #[error("the broker closed the connection {connection} with {in_flight} requests in flight")]
    Closed {
        /// The number of the connection; the control connection is "control".
        connection: String,
        /// Requests that it owes an answer.
        in_flight: usize,
    },
    /// It closed the connection on the very first request.
    #[error(
        "the connection was closed on the first request (ApiVersions): is this a Kafka broker?"
    )]
    Hangup,
    /// The broker answered with an error code.
    #[error("{what}: the broker answered with {}", kafka_error(*code))]
    Answer {
        /// The request.
        what: String,
        /// Kafka's `Errors.java`.
        code: i16,
    },
    /// Bytes that are not Kafka's.
    #[error("{0}: is this a Kafka broker?")]
    Protocol(String),
    /// The broker no longer answers.
    #[error("no answer from the broker for {seconds} s, {in_flight} requests in flight")]
    Stalled {
        /// How long it was waited.
        seconds: u64,
        /// Requests that it owes an answer.
        in_flight: usize,
    },
    /// Messages were lost, doubled, reordered or changed.
    #[error("verification failed: {0}")]
    Violation(#[from] Violation),
    /// The broker under test could not be started or stopped.
    #[error("{0}")]
    Target(String),
    /// The gate found something slower than its baseline.
    #[error("{0}")]
    Regressed(String),
    /// A comparison found the second side slower.
    #[error("B is slower: {0}")]
    Slower(&'static str),
    /// A comparison has no answer.
    #[error("cannot tell whether B differs: {0}; more --pairs or a longer --duration may")]
    CannotTell(&'static str),
    /// It ended a measured phase; what was counted until then.
    #[error("{failure}")]
    Partial {
        /// Why.
        failure: Box<Failure>,
        /// What it had measured.
        summary: Box<Summary>,
    },
    /// SIGINT or SIGTERM.
    #[error("interrupted: no result")]
    Interrupted,
    /// Flags that cannot be meant.
    #[error("{0}")]
    Usage(String),
}

impl Failure {
    /// The program's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Partial { failure, .. } => failure.exit_code(),
            Self::Usage(_) => 2,
            Self::Slower(_) => 3,
            Self::CannotTell(_) => 4,
            _ => 1,
        }
    }

    /// The failure itself, and what had been measured.
    pub(crate) fn into_parts(self) -> (Self, Option<Summary>) {
        match self {
            Self::Partial { failure, summary } => (*failure, Some(*summary)),
            failure => (failure, None),
        }
    }

    /// An adapter for `map_err`.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}

/// Kafka's name of an error code (`Errors.java`), and what it means for a load.
fn kafka_error(code: i16) -> String {
    let hint = match code {
        3 => ": the topic is not there, or no longer",
        27 => ": others joined or left the group",
        35 => ": the broker does not serve this version of the request",
        41 => ": it is not the controller",
        45 => ": a batch of the producer is missing",
        56 => ": its disk failed or is full, see its log",
        _ => "",
    };
    match kafka_protocol::error::ResponseError::try_from_code(code) {
        Some(error) => format!("{error:?} ({code}){hint}"),
        None => format!("error code {code}"),
    }
}
