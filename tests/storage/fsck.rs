//! `ringlog fsck`: every damage is named by file, position, offset and reason; nothing is changed by a
//! look; a repair loses what it says and no more.

use std::fs;
use std::path::Path;

use ringlog_tests::broker::{Directory, Options};
use ringlog_tests::call::{Fetch, fetch_all, fetch_to_end, produce_values};
use ringlog_tests::records::{Codec, message, message_set};
use ringlog_tests::wire::Client;
use serde_json::Value;
use uuid::Uuid;

use crate::place::{
    BATCHES, Place, RECORDS, TOPIC, contents, filled, fsck, hurt, places, restore, segments, values,
};

/// The findings that count as damage.
fn damage(objects: &[Value]) -> Vec<&Value> {
    let is_damage =
        |object: &&Value| object["level"] == "damage" || object["level"] == "mended-by-start";
    objects.iter().filter(is_damage).collect()
}

/// Bytes of a batch, and where it lies, to what is expected.
type Hurt = fn(&mut Vec<u8>, usize, &Place);

/// A flipped bit, a lie or a loss in the middle of a segment, and the word for it.
const DAMAGES: [(&str, &str, Hurt); 12] = [
    ("a bit of a record", "crc", |bytes, at, _| {
        bytes[at + 100] ^= 4;
    }),
    ("a bit of the crc", "crc", |bytes, at, _| {
        bytes[at + 18] ^= 1;
    }),
    ("a bit of the attributes", "crc", |bytes, at, _| {
        bytes[at + 22] ^= 8;
    }),
    ("the magic", "magic", |bytes, at, _| bytes[at + 16] = 77),
    ("the magic of old", "crc", |bytes, at, _| bytes[at + 16] = 1),
    ("a longer length", "crc", |bytes, at, _| bytes[at + 11] ^= 1),
    ("a huge length", "length", |bytes, at, _| {
        bytes[at + 8] = 0x7f;
    }),
    ("a negative length", "length", |bytes, at, _| {
        bytes[at + 8] = 0x80;
    }),
    ("a length of nothing", "length", |bytes, at, _| {
        bytes[at + 8..at + 12].fill(0);
    }),
    (
        "an offset that is too low",
        "offset-order",
        |bytes, at, _| bytes[at + 7] = 0,
    ),
    (
        "an offset that is too high",
        "offset-order",
        |bytes, at, _| bytes[at + 3] = 1,
    ),
    ("zeros over a batch", "length", |bytes, at, place| {
        bytes[at..at + place.header.size_in_bytes()].fill(0);
    }),
];

#[test]
fn every_damaged_batch_is_named() {
    let Some(mut broker) = filled(Options::default()) else {
        return;
    };
    broker.stop();
    let kept = contents(&broker.data());
    let (code, objects) = fsck(&broker.data(), &[]);
    assert_eq!(code, Some(0), "{objects:#?}");
    let total = objects.last().expect("the totals");
    assert_eq!(total["damaged"], 0, "{objects:#?}");
    assert!(total["batches"].as_i64() > Some(BATCHES), "{total}");
    let segment = &segments(&broker.logs())[1];
    let places = places(segment);
    // The first, one in the middle, the last of the segment.
    for index in [0, places.len() / 2, places.len() - 1] {
        let place = places[index];
        for (name, kind, change) in DAMAGES {
            hurt(segment, |bytes| change(bytes, place.position, &place));
            let before = contents(&broker.data());
            let (code, objects) = fsck(&broker.data(), &[]);
            let case = format!("{name} of batch {index}: {objects:#?}");
            assert_eq!(code, Some(1), "{case}");
            assert_eq!(contents(&broker.data()), before, "a look changes nothing");
            let found = damage(&objects);
            assert_eq!(found.len(), 1, "{case}");
            let found = found[0];
            assert_eq!(found["path"], segment.display().to_string(), "{case}");
            assert_eq!(found["position"], place.position, "{case}");
            assert_eq!(found["bytes"], place.header.size_in_bytes(), "{case}");
            assert_eq!(found["offset"], place.header.base_offset, "{case}");
            assert_eq!(found["next_offset"], place.header.next_offset(), "{case}");
            // At the end of the file there is no next batch that could tell the two apart.
            let is_kind = found["kind"] == kind || index == places.len() - 1;
            assert!(is_kind, "{case}");
            restore(&broker.data(), &kept);
        }
    }
}

#[test]
fn message_sets_of_old_are_checked() {
    let directory = Directory::new();
    let partition = directory.path().join("old-0");
    fs::create_dir(&partition).expect("ours");
    let mut bytes = message_set(0, Codec::None, 0, &["a", "b", "c"]);
    let mut positions = vec![bytes.len()];
    bytes.extend(message(1, 0, 3, 1000, b"d"));
    positions.push(bytes.len());
    bytes.extend(message(1, 0, 4, 1000, b"e"));
    let segment = partition.join("00000000000000000000.log");
    fs::write(&segment, &bytes).expect("ours");
    let (code, objects) = fsck(directory.path(), &[]);
    assert_eq!(code, Some(0), "{objects:#?}");
    assert_eq!(objects.last().expect("the totals")["batches"], 5);
    for (index, at) in [(0, 0), (3, positions[0]), (4, positions[1])] {
        let mut hurt = bytes.clone();
        hurt[at + 17] ^= 64;
        fs::write(&segment, hurt).expect("ours");
        let (code, objects) = fsck(directory.path(), &[]);
        assert_eq!(code, Some(1), "{objects:#?}");
        let found = damage(&objects);
        assert_eq!(found.len(), 1, "{objects:#?}");
        assert_eq!(
            (&found[0]["offset"], &found[0]["position"]),
            (&index.into(), &at.into())
        );
        assert_eq!(found[0]["kind"], "crc");
    }
}

#[test]
fn tails_indexes_and_small_files_are_looked_at() {
    let Some(mut broker) = filled(Options::default()) else {
        return;
    };
    broker.stop();
    let (data, logs) = (broker.data(), broker.logs());
    let kept = contents(&data);
    let first = segments(&logs)[0].clone();
    let last = segments(&logs).pop().expect("segments");
    let partition = logs.join(format!("{TOPIC}-0"));
    let check = |kind: &str, file: &Path| {
        let (code, objects) = fsck(&data, &[]);
        assert_eq!(code, Some(1), "{kind}: {objects:#?}");
        let named = file.display().to_string();
        let is_it = |object: &&&Value| {
            object["kind"] == kind && object["path"].as_str() == Some(named.as_str())
        };
        let found = damage(&objects);
        assert!(
            found.iter().any(|object| is_it(&object)),
            "{kind} of {named}: {objects:#?}"
        );
        restore(&data, &kept);
    };
    hurt(&last, |bytes| bytes.truncate(bytes.len() - 7));
    check("torn-tail", &last);
    hurt(&last, |bytes| bytes.extend([0; 4096]));
    check("zeros", &last);
    let index = first.with_extension("index");
    hurt(&index, |bytes| bytes[7] ^= 1);
    check("index", &index);
    hurt(&index, |bytes| {
        bytes.pop();
    });
    check("index", &index);
    fs::remove_file(&last).expect("ours");
    check("missing-end", &partition);
    for file in [
        "recovery-point-offset-checkpoint",
        "log-start-offset-checkpoint",
        "replication-offset-checkpoint",
        "cleaner-offset-checkpoint",
    ] {
        let path = logs.join(file);
        fs::write(&path, "0\n2\nhurt 0").expect("ours");
        check("checkpoint", &path);
    }
    let epochs = partition.join("leader-epoch-checkpoint");
    fs::write(&epochs, "9\n0\n").expect("ours");
    check("checkpoint", &epochs);
    fs::write(logs.join("meta.properties"), "version=9\n").expect("ours");
    check("meta-properties", &logs.join("meta.properties"));
    fs::write(partition.join("partition.metadata"), "version: 0\n").expect("ours");
    check("partition-metadata", &partition.join("partition.metadata"));
    fs::write(partition.join("1.log"), "?").expect("ours");
    check("foreign", &partition.join("1.log"));
    let journal = data.join("journal");
    fs::write(journal.join(".ringlog-journal-0-000000"), vec![7; 8192]).expect("ours");
    let (code, objects) = fsck(&data, &[]);
    assert_eq!(code, Some(1), "{objects:#?}");
    assert!(
        damage(&objects).iter().any(|o| o["kind"] == "journal"),
        "{objects:#?}"
    );
}

#[test]
fn a_directory_in_use_is_refused_with_the_path_and_the_pid() {
    let Some(broker) = filled(Options::default()) else {
        return;
    };
    let pid = broker.process_id().expect("ours").to_string();
    for directory in [broker.data(), broker.logs(), broker.logs().join("sound-0")] {
        for more in [&[][..], &["--repair", "cut"]] {
            let (code, objects) = fsck(&directory, more);
            assert_eq!(code, Some(1));
            let text = objects[0]["error"].as_str().expect("an error");
            assert!(text.contains(&pid), "no pid {pid} in {text}");
            assert!(text.contains(".lock"), "{text}");
        }
    }
}

#[test]
fn what_is_no_data_directory_is_refused() {
    let directory = Directory::new();
    for path in [
        directory.path().to_owned(),
        directory.path().join("not-there"),
    ] {
        let (code, objects) = fsck(&path, &[]);
        assert_eq!(code, Some(1));
        let text = objects[0]["error"].as_str().expect("an error");
        assert!(text.contains(&path.display().to_string()), "{text}");
    }
}

#[test]
fn a_repair_loses_what_it_says_and_no_more() {
    let Some(mut broker) = filled(Options::default()) else {
        return;
    };
    broker.stop();
    let (data, logs) = (broker.data(), broker.logs());
    let kept = contents(&data);
    let all: Vec<String> = (0..BATCHES).flat_map(values).collect();
    let middle = segments(&logs)[1].clone();
    let last = segments(&logs).pop().expect("segments");
    for (segment, mode) in [
        (&middle, "quarantine"),
        (&middle, "cut"),
        (&last, "quarantine"),
        (&last, "cut"),
    ] {
        for at_end in [false, true] {
            let of_segment = places(segment);
            let place = if at_end {
                of_segment[of_segment.len() - 1]
            } else {
                of_segment[1]
            };
            hurt(segment, |bytes| bytes[place.position + 8] = 0x7f);
            let (code, objects) = fsck(&data, &["--repair", mode]);
            assert_eq!(code, Some(0), "{mode}: {objects:#?}");
            let (code, objects) = fsck(&data, &[]);
            assert_eq!(code, Some(0), "after {mode}: {objects:#?}");
            broker.restart();
            let mut client = Client::connect(broker.address());
            let lost = place.header.base_offset..=place.header.last_offset();
            let is_cut = mode == "cut";
            let expected: Vec<(i64, &String)> = (0..)
                .zip(&all)
                .filter(|(offset, _)| {
                    if is_cut {
                        offset < lost.start()
                    } else {
                        !lost.contains(offset)
                    }
                })
                .collect();
            let end = if is_cut {
                *lost.start()
            } else {
                BATCHES * RECORDS
            };
            assert_eq!(
                produce_values(&mut client, TOPIC, &["behind"]),
                end,
                "{mode}"
            );
            // A batch without records ends the helper's reading; clients step over it.
            let mut records = fetch_all(&mut client, TOPIC, 0);
            let behind = Fetch::of(TOPIC, Uuid::nil(), lost.end() + 1);
            if records
                .last()
                .is_none_or(|last| last.offset < behind.offset)
                && !is_cut
            {
                records.extend(fetch_to_end(&mut client, 11, behind));
            }
            let seen: Vec<_> = records.iter().map(|r| (r.offset, r.text())).collect();
            assert_eq!(seen.len(), expected.len() + 1, "{mode} of {place:?}");
            for ((offset, text), (wanted, value)) in seen.iter().zip(&expected) {
                assert_eq!((offset, text), (wanted, *value));
            }
            assert_eq!(fetch_all(&mut client, "sound", 0).len(), 2);
            broker.stop();
            restore(&data, &kept);
        }
    }
}

/// No checksum covers a base offset, and nothing stands behind the last batch; a clean stop says where it ends.
#[test]
fn a_last_batch_that_a_bit_has_moved_is_damage() {
    let Some(mut broker) = filled(Options::default().expect_error("is damaged at byte")) else {
        return;
    };
    broker.stop();
    let last = segments(&broker.logs()).pop().expect("segments");
    let place = *places(&last).last().expect("batches");
    hurt(&last, |bytes| bytes[place.position + 5] ^= 1);
    let (code, objects) = fsck(&broker.data(), &[]);
    assert_eq!(code, Some(1), "{objects:#?}");
    let is_it = |object: &&Value| {
        object["level"] == "damage" && object["offset"] == place.header.base_offset
    };
    let found = objects.iter().find(is_it);
    let found = found.unwrap_or_else(|| panic!("{objects:#?}"));
    assert_eq!(found["position"], place.position, "{found:#?}");
    broker.restart();
    let mut client = Client::connect(broker.address());
    let end = BATCHES * RECORDS;
    assert_eq!(produce_values(&mut client, TOPIC, &["behind"]), end);
}

#[test]
fn the_journal_beside_log_dirs_is_looked_at() {
    let Some(mut broker) = filled(Options::default()) else {
        return;
    };
    broker.stop();
    let elsewhere = Directory::new();
    let logs = elsewhere.path().join("kafka-logs");
    let own = elsewhere.path().join("kafka-logs.ringlog");
    fs::create_dir(&own).expect("ours");
    fs::rename(broker.logs(), &logs).expect("one disk");
    fs::rename(broker.data().join("journal"), own.join("journal")).expect("one disk");
    let file = own.join("journal/.ringlog-journal-0-000000");
    fs::write(&file, vec![7; 8192]).expect("ours");
    hurt(&segments(&logs)[1], |bytes| bytes[100] ^= 4);
    let before = contents(&logs);
    let unchanged = |objects: &[Value]| {
        let mut after = contents(&logs);
        after.retain(|(path, _)| path.parent() != Some(&logs));
        let kept = before
            .iter()
            .filter(|(path, _)| path.parent() != Some(&logs));
        assert!(after.iter().eq(kept), "{objects:#?}");
    };
    let partition = logs.join(format!("{TOPIC}-0"));
    for directory in [&logs, &partition] {
        let (code, objects) = fsck(directory, &["--repair", "quarantine"]);
        assert_eq!(code, Some(1), "{objects:#?}");
        for kind in ["journal", "not-repaired"] {
            let is_told = damage(&objects).iter().any(|o| o["kind"] == kind);
            assert!(is_told, "no {kind} in {objects:#?}");
        }
        unchanged(&objects);
    }
    // Nobody knows where the journal is: after an unclean end it has to be said.
    fs::remove_dir_all(&own).expect("ours");
    fs::remove_file(logs.join(".kafka_cleanshutdown")).expect("a clean stop");
    let (code, objects) = fsck(&logs, &["--repair", "quarantine"]);
    assert_eq!(code, Some(1), "{objects:#?}");
    let text = objects[0]["error"].as_str().expect("an error");
    assert!(text.contains("--journal DIR"), "{text}");
    unchanged(&objects);
    let none = elsewhere.path().join("none");
    fs::create_dir(&none).expect("ours");
    let none = none.display().to_string();
    let (code, objects) = fsck(&logs, &["--journal", &none, "--repair", "quarantine"]);
    assert_eq!(code, Some(0), "{objects:#?}");
}

#[test]
fn what_a_repair_has_kept_is_never_written_over() {
    let Some(mut broker) = filled(Options::default()) else {
        return;
    };
    broker.stop();
    let segment = segments(&broker.logs())[1].clone();
    let place = places(&segment)[1];
    let end = place.position + place.header.size_in_bytes();
    let mut kept = Vec::new();
    for (round, suffix) in ["", ".1", ".2"].into_iter().enumerate() {
        let before = contents(&broker.data());
        hurt(&segment, |bytes| bytes[place.position + 18] ^= 1 << round);
        let damaged = fs::read(&segment).expect("ours")[place.position..end].to_vec();
        let (code, objects) = fsck(&broker.data(), &["--repair", "quarantine"]);
        assert_eq!(code, Some(0), "{objects:#?}");
        let name = format!(
            "{}.{}.quarantine{suffix}",
            segment.display(),
            place.position
        );
        kept.push((name, damaged));
        for (name, bytes) in &kept {
            assert!(fs::read(name).is_ok_and(|found| found == *bytes), "{name}");
        }
        // The segment as it was, beside what is kept.
        for (path, bytes) in before {
            fs::write(path, bytes).expect("ours");
        }
    }
}

#[test]
fn what_cannot_be_read_ends_nothing_else() {
    let Some(mut broker) = filled(Options::default()) else {
        return;
    };
    broker.stop();
    let all = segments(&broker.logs());
    // A directory of that name is opened, and cannot be read, by root either.
    fs::remove_file(&all[0]).expect("ours");
    fs::create_dir(&all[0]).expect("ours");
    let later = &places(&all[1])[1];
    hurt(&all[1], |bytes| bytes[later.position + 18] ^= 1);
    let before = contents(&broker.data());
    for more in [&[][..], &["--repair", "cut"], &["--repair", "quarantine"]] {
        let (code, objects) = fsck(&broker.data(), more);
        assert_eq!(code, Some(1), "{objects:#?}");
        let found = damage(&objects);
        let kinds: Vec<_> = found.iter().map(|o| o["kind"].as_str()).collect();
        assert_eq!(kinds, [Some("unreadable"), Some("crc")], "{objects:#?}");
        assert_eq!(found[0]["path"], all[0].display().to_string());
        assert_eq!(found[1]["path"], all[1].display().to_string());
        let total = objects.last().expect("the totals");
        assert_eq!(total["partitions"], 2, "{total}");
        assert_eq!(contents(&broker.data()), before, "{more:?}");
    }
}
