//! Finds the brokers of a cluster through ZooKeeper, for tools that are given only that.

use serde_json::Value;
use zookeeper_client::Error;

use super::tool::{ToolError, ToolResult};
use super::zookeeper_topics::with_zookeeper;

/// A bootstrap list from `/brokers/ids`.
///
/// # Errors
/// If no ZooKeeper answers, or no broker is registered there.
pub fn find(cluster: &str) -> ToolResult<String> {
    let addresses = with_zookeeper(cluster, async |client| {
        let failed = |error: Error| ToolError::failed(format!("/brokers/ids: {error}"));
        let mut addresses = Vec::new();
        for id in client.list_children("/brokers/ids").await.map_err(failed)? {
            let path = format!("/brokers/ids/{id}");
            let Ok((data, _)) = client.get_data(&path).await else {
                continue;
            };
            addresses.extend(address(&data));
        }
        addresses.sort();
        Ok(addresses)
    })?;
    if addresses.is_empty() {
        return Err(ToolError::failed(format!(
            "no broker is registered at {cluster}\n   | start one with \
             `bin/kafka-server-start.sh config/server.properties`"
        )));
    }
    Ok(addresses.join(","))
}

/// The plain-text endpoint of a registration (Kafka: `ZkData.scala`, versions 1 to 5).
fn address(data: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(data).ok()?;
    let endpoints = value["endpoints"].as_array().into_iter().flatten();
    let mut plain = endpoints.filter_map(|e| e.as_str()?.strip_prefix("PLAINTEXT://"));
    if let Some(endpoint) = plain.next() {
        return Some(endpoint.to_owned());
    }
    let host = value["host"].as_str()?;
    let port = value["port"].as_i64()?;
    Some(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_registrations_are_read() {
        let new = br#"{"version":5,"host":"h","port":9092,"endpoints":["PLAINTEXT://e:1"]}"#;
        assert_eq!(address(new).as_deref(), Some("e:1"));
        let old = br#"{"version":1,"host":"h","port":9092}"#;
        assert_eq!(address(old).as_deref(), Some("h:9092"));
        assert_eq!(address(b"x"), None);
    }
}
