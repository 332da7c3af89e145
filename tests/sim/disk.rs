//! The directory that a clean stop leaves: whole batches, gapless offsets, no journal. (Where the logs
//! begin, the clients have seen.)

use std::collections::BTreeMap;

use ringlog::config::BrokerConfig;
use ringlog_engine::io::sim::World;
use ringlog_tests::records::read;

use crate::ledger::Ledger;

/// Checks all logs; gives the number of their bytes.
pub(crate) fn check(world: &World, config: &BrokerConfig, ledger: &Ledger) -> u64 {
    let mut bytes = 0;
    let mut segments: BTreeMap<String, Vec<(i64, String)>> = BTreeMap::new();
    for (path, length) in world.files() {
        assert!(
            !path.contains(".ringlog-journal"),
            "{path} ({length} bytes) is left after a clean stop"
        );
        if let Some((directory, file)) = path.rsplit_once('/')
            && let Some(base) = file.strip_suffix(".log")
        {
            let base = base
                .parse()
                .unwrap_or_else(|_| panic!("{path} is no segment"));
            segments
                .entry(directory.to_owned())
                .or_default()
                .push((base, path.clone()));
            bytes += length;
        }
    }
    for (directory, mut segments) in segments {
        segments.sort();
        // Retention takes whole segments from the beginning.
        let mut next = segments.first().map_or(0, |(base, _)| *base);
        for (base, path) in segments {
            let is_compacted = |part: &str| directory.contains(part);
            let may_have_gaps = ["/__consumer_offsets-", "/delta-"]
                .into_iter()
                .any(is_compacted);
            assert!(
                base == next || may_have_gaps && base > next,
                "{path} does not follow the segment before it, which ends at {next}"
            );
            next = base;
            let file = world
                .read_file(&path)
                .unwrap_or_else(|error| panic!("{path}: {error}"));
            let zeros = file.iter().rev().take_while(|byte| **byte == 0).count();
            assert!(
                zeros < 64,
                "{path}: {zeros} zeros at the end of {} bytes",
                file.len()
            );
            let contents = read(&file);
            assert!(!contents.partial, "{path} ends within a batch");
            for record in &contents.records {
                assert!(
                    record.offset == next || may_have_gaps && record.offset > next,
                    "offset {} of {path}, {next} is due",
                    record.offset
                );
                next = record.offset + 1;
            }
        }
        let end = end_of(ledger, &directory);
        if let Some(end) = end {
            assert_eq!(next, end, "the end of {directory}");
        }
    }
    for directory in &config.log_dirs {
        let mark = directory.join(".kafka_cleanshutdown");
        assert!(
            world.read_file(&mark).is_ok(),
            "{} is missing",
            mark.display()
        );
    }
    bytes
}

/// The high watermark of the partition of a directory, if the ledger knows it.
fn end_of(ledger: &Ledger, directory: &str) -> Option<i64> {
    let (topic, partition) = directory.rsplit('/').next()?.rsplit_once('-')?;
    let is_it = |number: &usize| {
        let found = ledger.topic(*number);
        found.name == topic && found.existence == crate::ledger::Existence::Sure
    };
    let number = ledger.topics().find(is_it)?;
    Some(ledger.high_watermark(number, partition.parse().ok()?))
}
