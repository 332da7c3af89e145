//! Record batches and message sets: Kafka's bytes, read and patched in place.
