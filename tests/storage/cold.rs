//! Damage in what an earlier process wrote: CORRUPT_MESSAGE for it, everything else is served.

use std::time::Duration;

use kafka_protocol::ResponseError;
use ringlog_tests::broker::{Options, wait_for};
use ringlog_tests::call::{Fetch, fetch_all, produce_values};
use ringlog_tests::wire::Client;
use uuid::Uuid;

use crate::place::{BATCHES, RECORDS, TOPIC, filled, hurt, places, segments, values};

const DAMAGED: &str = "is damaged at byte";

#[test]
fn a_damaged_batch_is_refused_and_all_around_it_is_served() {
    let options = Options::default()
        .set("ringlog.scrub.bytes.per.second", 0)
        .expect_error(DAMAGED);
    let Some(mut broker) = filled(options) else {
        return;
    };
    for crash in [false, true] {
        broker.end(crash);
        let segment = segments(&broker.logs())[1].clone();
        let place = places(&segment)[4];
        hurt(&segment, |bytes| bytes[place.position + 200] ^= 16);
        broker.restart();
        let mut client = Client::connect(broker.address());
        let first = place.header.base_offset;
        let fetch = |offset| Fetch::of(TOPIC, Uuid::nil(), offset);
        for offset in first..first + RECORDS {
            for version in [4, 11] {
                let answer = fetch(offset).call(&mut client, version);
                assert_eq!(answer.error_code, ResponseError::CorruptMessage.code());
                assert!(answer.records.is_none_or(|records| records.is_empty()));
            }
        }
        // Before it: a slice that would reach over it ends at it.
        let mut offset = 0;
        while offset < first {
            let records = fetch(offset).contents(&mut client, 11).records;
            for record in records.iter().filter(|record| record.offset >= offset) {
                let number = record.offset / RECORDS;
                let text =
                    &values(number)[usize::try_from(record.offset % RECORDS).expect("small")];
                assert_eq!(&record.text(), text);
            }
            offset = records.last().expect("records before the damage").offset + 1;
        }
        assert_eq!(offset, first);
        let mut offset = first + RECORDS;
        while offset < BATCHES * RECORDS {
            let records = fetch(offset).contents(&mut client, 11).records;
            offset = records.last().expect("records behind the damage").offset + 1;
        }
        assert_eq!(fetch_all(&mut client, "sound", 0).len(), 2);
        let end = produce_values(&mut client, TOPIC, &["one more"]);
        assert_eq!(
            fetch(end).contents(&mut client, 11).records[0].text(),
            "one more"
        );
        // Once for each start, however often it was asked for.
        let told = broker.log().matches(DAMAGED).count();
        assert_eq!(told, if crash { 2 } else { 1 });
        let line = format!("at byte {}", place.position);
        assert!(broker.log().contains(&line), "no {line:?} in the log");
        hurt(&segment, |bytes| bytes[place.position + 200] ^= 16);
    }
}

#[test]
fn a_scrub_tells_of_damage_that_nobody_has_read() {
    let options = Options::default()
        .set("ringlog.scrub.bytes.per.second", 100_000_000)
        .expect_error(DAMAGED);
    let Some(mut broker) = filled(options) else {
        return;
    };
    broker.stop();
    let segment = segments(&broker.logs())[2].clone();
    let place = places(&segment)[3];
    hurt(&segment, |bytes| bytes[place.position + 16] = 9);
    broker.restart();
    wait_for("the scrub", Duration::from_secs(60), || {
        broker.log().contains(DAMAGED).then_some(())
    });
    let log = broker.log();
    for part in [
        format!("at byte {}", place.position),
        format!("from offset {}", place.header.base_offset),
        format!("go on at offset {}", place.header.next_offset()),
        segment.display().to_string(),
    ] {
        assert!(log.contains(&part), "no {part:?} in the log");
    }
}
