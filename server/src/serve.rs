//! Runs the broker.

use crate::config::BrokerConfig;

/// Why the broker could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The serving part is not in this build.
    #[error("serving is not built yet\n   | only `ringlog config` works in this build")]
    NotBuilt,
}

/// Serves until a signal asks to stop.
///
/// # Errors
/// What kept the broker from starting, or what stopped it.
pub fn serve(_config: BrokerConfig) -> Result<(), ServeError> {
    Err(ServeError::NotBuilt)
}
