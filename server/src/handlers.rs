//! One file per API: what a request means, and its answer. Version differences stand at the head
//! of each file, with their KIPs.

pub mod api_versions;
pub mod create_topics;
pub mod delete_topics;
pub mod fetch;
pub mod find_coordinator;
pub mod group;
pub mod init_producer_id;
pub mod list_offsets;
pub mod metadata;
pub mod produce;
