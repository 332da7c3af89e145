//! Damage in what an earlier process wrote: never served, told once, and everything around it is.

use super::*;
use crate::log::{DamagedBatches, ScrubPosition};

/// A batch as it was written.
#[derive(Clone, Debug)]
struct Written {
    file: PathBuf,
    position: usize,
    header: BatchHeader,
    bytes: Vec<u8>,
}

/// A closed log of several segments, and its batches.
fn filled(place: &Place) -> (i64, Vec<Written>) {
    let path = place.partition();
    let end = Rc::new(Cell::new(0));
    let seen = end.clone();
    run(move |files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        for i in 0..60 {
            append(
                &log,
                &vec![i; 1 + i as usize % 3],
                40 + 13 * (i as usize % 9),
            )
            .await;
        }
        seen.set(log.close().await.unwrap());
    });
    let mut written = Vec::new();
    for name in place
        .names()
        .into_iter()
        .filter(|name| name.ends_with(".log"))
    {
        let file = place.partition().join(name);
        let bytes = std::fs::read(&file).unwrap();
        let mut position = 0;
        for batch in crate::record::batch::iterate(&bytes) {
            let batch = batch.unwrap();
            let bytes = batch.bytes.to_vec();
            written.push(Written {
                file: file.clone(),
                position,
                header: batch.header,
                bytes,
            });
            position += batch.bytes.len();
        }
    }
    (end.get(), written)
}

/// Everything that can be read from the beginning to the end, damage stepped over as it is told.
async fn survivors(log: &Log, max_bytes: u32) -> (Vec<Vec<u8>>, Vec<DamagedBatches>) {
    let (mut batches, mut offset, end) = (Vec::new(), 0, log.end_position());
    while offset < end.offset {
        let slice = match log.read(offset, max_bytes, end, true).await {
            Ok(slice) => slice.expect("below the end"),
            Err(LogError::Corrupt { .. }) => {
                let behind = log.offset_behind_damage(offset);
                offset = behind.unwrap_or_else(|| panic!("no way on from {offset}"));
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let bytes = slice_bytes(log, &slice).await;
        let before = offset;
        for batch in crate::record::batch::iterate(&bytes).map_while(Result::ok) {
            if batch.header.last_offset() >= offset {
                offset = batch.header.next_offset();
                batches.push(batch.bytes.to_vec());
            }
        }
        assert!(offset > before, "{slice:?} has nothing for offset {offset}");
    }
    (batches, log.take_damage())
}

/// Hurts a file; gives the stretch of bytes that may differ.
fn hurt(random: &mut Random, bytes: &mut [u8]) -> (usize, usize) {
    let at = random.below(bytes.len() as u64) as usize;
    let length = 1 + random.below(300.min((bytes.len() - at) as u64)) as usize;
    match random.below(4) {
        0 | 1 => {
            bytes[at] ^= 1 << random.below(8);
            (at, at + 1)
        }
        2 => {
            bytes[at..at + length].fill(0);
            (at, at + length)
        }
        _ => {
            bytes[at..at + length].fill_with(|| random.next() as u8);
            (at, at + length)
        }
    }
}

#[test]
fn damaged_batches_are_never_served_and_all_others_are() {
    let mut random = Random(seed());
    let place = Place::new();
    let (end, written) = filled(&place);
    let mut found = 0;
    for round in 0..400 {
        let victim = written[random.below(written.len() as u64) as usize]
            .file
            .clone();
        let whole = std::fs::read(&victim).unwrap();
        let mut bytes = whole.clone();
        let (from, to) = hurt(&mut random, &mut bytes);
        std::fs::write(&victim, &bytes).unwrap();
        // The leader epoch (bytes 12 to 15) has no checksum.
        let sound = |batch: &Written| {
            let (start, end) = (batch.position, batch.position + batch.bytes.len());
            let now = |range: std::ops::Range<usize>| bytes[range].to_vec();
            batch.file != victim
                || now(start..start + 12) == batch.bytes[..12]
                    && now(start + 16..end) == batch.bytes[16..]
        };
        let expected: Vec<i64> = written
            .iter()
            .filter(|b| sound(b))
            .map(|b| b.header.base_offset)
            .collect();
        let lost = written.len() - expected.len();
        let path = place.partition();
        let max_bytes = [1, 500, 100_000][random.below(3) as usize];
        let (written, seen) = (written.clone(), Rc::new(Cell::new(0)));
        let count = seen.clone();
        let context = format!(
            "round {round}: bytes {from} to {to} of {}",
            victim.display()
        );
        run(move |files| async move {
            let opened = open(&files, &path, clean(end)).await;
            let (log, _) = match opened {
                Ok(opened) => opened,
                // Only if the end is gone that the checkpoint knows.
                Err(error) => {
                    let is_end = error.to_string().contains("was on stable storage");
                    assert!(is_end, "{context}: {error}");
                    return;
                }
            };
            assert_eq!(log.log_end_offset(), end, "{context}");
            let (batches, damage) = survivors(&log, max_bytes).await;
            let mut offsets = Vec::new();
            for batch in &batches {
                let header = BatchHeader::parse(batch).unwrap();
                let original = written
                    .iter()
                    .find(|b| b.header.base_offset == header.base_offset);
                let original = original.unwrap_or_else(|| panic!("{context}: served {header:?}"));
                assert_eq!(batch[16..], original.bytes[16..], "{context}: {header:?}");
                offsets.push(header.base_offset);
            }
            assert_eq!(offsets, expected, "{context}: {damage:?}");
            assert_eq!(damage.is_empty(), lost == 0, "{context}: {damage:?}");
            count.set(damage.len());
            // Told once.
            let (again, damage) = survivors(&log, 700).await;
            assert_eq!(again.len(), batches.len(), "{context}");
            assert_eq!(damage, [], "{context}");
            let mut visited = Vec::new();
            log.visit_batches(0, &mut |header, _| visited.push(header.base_offset))
                .await
                .unwrap();
            assert_eq!(visited, expected, "{context}");
        });
        found += seen.get();
        std::fs::write(&victim, &whole).unwrap();
    }
    assert!(found > 100, "{found} damaged stretches in all rounds");
}

#[test]
fn bytes_are_verified_once_and_scrubbed_again() {
    let place = Place::new();
    let (end, written) = filled(&place);
    let victim = written[3].clone();
    let path = place.partition();
    run(move |files| async move {
        let (log, _) = open(&files, &path, clean(end)).await.unwrap();
        assert_eq!(survivors(&log, 1 << 20).await.0.len(), written.len());
        let mut bytes = std::fs::read(&victim.file).unwrap();
        bytes[victim.position + 70] ^= 1;
        std::fs::write(&victim.file, &bytes).unwrap();
        // What was verified is sent as it is: the bit fell later, and nobody has looked.
        let slice = log
            .read(victim.header.base_offset, 1, log.end_position(), true)
            .await;
        assert!(slice.unwrap().is_some());
        let mut at = ScrubPosition::default();
        let mut read = 0;
        while let Some(bytes) = log.scrub(&mut at, 1000).await.unwrap() {
            read += bytes;
        }
        assert_eq!(read, log.size_bytes());
        let damage = log.take_damage();
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert_eq!(damage[0].file, victim.file);
        assert_eq!(damage[0].damage.position, victim.position as u64);
        assert_eq!(damage[0].damage.offset, victim.header.base_offset);
        let (batches, _) = survivors(&log, 1 << 20).await;
        assert_eq!(batches.len(), written.len() - 1);
    });
}

#[test]
fn a_scrub_finds_damage_in_what_this_process_appended() {
    let place = Place::new();
    let path = place.partition();
    run(move |files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        for i in 0..50 {
            append(&log, &[i], 100).await;
        }
        let mut at = ScrubPosition::default();
        while log.scrub(&mut at, 100_000).await.unwrap().is_some() {}
        assert_eq!(log.take_damage(), []);
        let segment = log.path(0, SegmentFileKind::Log);
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[300] ^= 32;
        std::fs::write(&segment, &bytes).unwrap();
        let mut at = ScrubPosition::default();
        while log.scrub(&mut at, 100_000).await.unwrap().is_some() {}
        assert_eq!(log.take_damage().len(), 1);
        assert_eq!(survivors(&log, 1 << 20).await.0.len(), 49);
        append(&log, &[50], 100).await;
        assert_eq!(survivors(&log, 1 << 20).await.0.len(), 50);
    });
}

#[test]
fn after_a_crash_damage_below_the_recovery_point_stays_and_is_stepped_over() {
    // Of the segment's first batch, and of the last one below the recovery point.
    for from_end in [None, Some(2)] {
        let place = Place::new();
        let (end, written) = filled(&place);
        let mut files: Vec<_> = written.iter().map(|b| b.file.clone()).collect();
        files.dedup();
        let last_file = files[files.len() - 2].clone();
        let of_last: Vec<_> = written.iter().filter(|b| b.file == last_file).collect();
        let victim = of_last[from_end.map_or(0, |count| of_last.len() - count)].clone();
        let point = of_last.last().unwrap().header.base_offset;
        let mut bytes = std::fs::read(&last_file).unwrap();
        bytes[victim.position + 8] = 0x7f;
        std::fs::write(&last_file, &bytes).unwrap();
        let path = place.partition();
        run(move |files| async move {
            let (log, recovery) = open(&files, &path, unclean(point)).await.unwrap();
            assert_eq!(recovery.damaged.len(), 1);
            assert_eq!(recovery.truncated, None);
            assert_eq!(log.log_end_offset(), end);
            let (batches, damage) = survivors(&log, 1 << 20).await;
            assert_eq!(batches.len(), written.len() - 1);
            assert_eq!(damage, recovery.damaged);
            append(&log, &[7], 10).await;
            assert_eq!(log.close().await.unwrap(), end + 1);
            assert_eq!(survivors(&log, 1 << 20).await.0.len(), written.len());
        });
        assert_eq!(
            std::fs::read(&last_file).unwrap()[..bytes.len()],
            bytes,
            "nothing is cut"
        );
    }
}

/// Nothing stands behind the last batch that contradicts its header, and no checksum covers its base offset:
/// what the log is known to hold does.
#[test]
fn the_end_of_the_log_is_not_moved_by_a_bit_of_its_last_batch() {
    const LEADER_EPOCH: std::ops::Range<usize> = 12..16;
    // Length, magic, last offset delta, count: after a crash nothing else tells where the batch ends.
    let tells_end = |byte: usize| matches!(byte, 8..12 | 16 | 23..27 | 57..61);
    for (byte, is_clean) in (0..61).flat_map(|byte| [(byte, true), (byte, false)]) {
        let place = Place::new();
        let path = place.partition();
        let end = Rc::new(Cell::new(0));
        let seen = end.clone();
        run(move |files| async move {
            let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
            for i in 0..3 {
                append(&log, &[i, i], 100).await;
            }
            seen.set(log.close().await.unwrap());
        });
        let (end, path) = (end.get(), place.partition());
        let segment = segment_path(&path, 0, SegmentFileKind::Log);
        let sound = std::fs::read(&segment).unwrap();
        let batches = crate::record::batch::iterate(&sound);
        let sizes: Vec<usize> = batches.map(|batch| batch.unwrap().bytes.len()).collect();
        let position = sound.len() - sizes.last().unwrap();
        for bit in 0..8 {
            let at = format!("bit {bit} of byte {byte}, clean {is_clean}");
            let mut bytes = sound.clone();
            bytes[position + byte] ^= 1 << bit;
            std::fs::write(&segment, &bytes).unwrap();
            let (path, told) = (path.clone(), at.clone());
            run(move |files| async move {
                let at = told;
                let opening = if is_clean { clean(end) } else { unclean(end) };
                let opened = open(&files, &path, opening).await;
                let (log, _) = match opened {
                    Ok(opened) => opened,
                    Err(LogError::Corrupt { .. }) if !is_clean && tells_end(byte) => return,
                    Err(error) => panic!("{at}: {error}"),
                };
                assert_eq!(log.log_end_offset(), end, "{at}");
                let (batches, _) = survivors(&log, 1 << 20).await;
                let kept = if LEADER_EPOCH.contains(&byte) { 3 } else { 2 };
                assert_eq!(batches.len(), kept, "{at}");
                assert_eq!(log.log_end_offset(), end, "{at}");
            });
            assert_eq!(
                std::fs::read(&segment).unwrap(),
                bytes,
                "{at}: nothing is cut"
            );
        }
    }
}

/// What follows says that it was moved, and is served.
#[test]
fn after_a_crash_a_batch_that_a_bit_has_moved_takes_none_of_the_following_along() {
    for bit in 0..64_usize {
        let place = Place::new();
        let (end, written) = filled(&place);
        let last_file = written.last().unwrap().file.clone();
        let victim = written.iter().find(|batch| batch.file == last_file);
        let victim = victim.unwrap().clone();
        let mut bytes = std::fs::read(&last_file).unwrap();
        bytes[victim.position + bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&last_file, &bytes).unwrap();
        let path = place.partition();
        run(move |files| async move {
            let (log, recovery) = open(&files, &path, unclean(end)).await.unwrap();
            assert_eq!(recovery.damaged.len(), 1, "bit {bit}");
            assert_eq!(log.log_end_offset(), end, "bit {bit}");
            let (batches, _) = survivors(&log, 1 << 20).await;
            assert_eq!(batches.len(), written.len() - 1, "bit {bit}");
        });
    }
}

#[test]
fn damage_at_the_end_does_not_swallow_what_is_appended_during_a_walk() {
    let place = Place::new();
    let path = place.partition();
    run(move |files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        for i in 0..5 {
            append(&log, &[i], 100).await;
        }
        let end = log.close().await.unwrap();
        let segment = segment_path(&path, 0, SegmentFileKind::Log);
        let mut bytes = std::fs::read(&segment).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&segment, &bytes).unwrap();
        let (log, _) = open(&files, &path, clean(end)).await.unwrap();
        let file = log.file(0).await.unwrap();
        let mut walk = log.walk(0, &file, (0, 0), 512);
        append(&log, &[5, 6], 100).await;
        while log.next_of(&mut walk).await.unwrap().is_some() {}
        let damage = log.take_damage();
        assert_eq!(damage.len(), 1);
        assert_eq!(damage[0].damage.next_offset, Some(end), "{damage:?}");
        assert_eq!(survivors(&log, 1 << 20).await.0.len(), 5);
    });
}

#[test]
fn a_damaged_first_batch_does_not_refuse_appends() {
    let place = Place::new();
    let path = place.partition();
    run(move |files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        for i in 0..5 {
            append(&log, &[i], 100).await;
        }
        let end = log.close().await.unwrap();
        let segment = segment_path(&path, 0, SegmentFileKind::Log);
        let mut bytes = std::fs::read(&segment).unwrap();
        // The length.
        bytes[8] = 0x7f;
        std::fs::write(&segment, &bytes).unwrap();
        let (log, _) = open(&files, &path, clean(end)).await.unwrap();
        append(&log, &[5], 100).await;
        assert_eq!(log.segment_count(), 1);
        assert_eq!(survivors(&log, 1 << 20).await.0.len(), 5);
        let end = log.end_position();
        assert!(log.roll_segment_at(end).await.unwrap());
        let limits = CompactionLimits {
            clean_to: None,
            high_watermark: end.offset,
            now_ms: 1 << 40,
            lag_ms_min: 0,
            lag_ms_max: 1,
        };
        assert!(!log.dirt(&limits).await.unwrap().unwrap().is_overdue);
    });
}

#[test]
fn verified_bytes_are_sent_without_a_bound() {
    let place = Place::new();
    let path = place.partition();
    run(move |files| async move {
        let config = LogConfig {
            segment_bytes: 64 << 20,
            ..small()
        };
        let log = Log::create(&files, &path, TOPIC_ID, config).await.unwrap();
        for i in 0..10 {
            append(&log, &[i], 1 << 20).await;
        }
        let end = log.close().await.unwrap();
        let (log, _) = open(&files, &path, clean(end)).await.unwrap();
        let limit = log.end_position();
        let cold = log.read(0, u32::MAX, limit, true).await.unwrap().unwrap();
        assert!(u64::from(cold.length) < log.size_bytes(), "{cold:?}");
        assert_eq!(survivors(&log, 4 << 20).await.0.len(), 10);
        let warm = log.read(0, u32::MAX, limit, true).await.unwrap().unwrap();
        assert_eq!(u64::from(warm.length), log.size_bytes());
    });
}

#[test]
fn after_a_crash_a_damaged_last_batch_is_stepped_over_if_it_ends_the_log() {
    let place = Place::new();
    let path = place.partition();
    run(move |files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        for i in 0..5 {
            append(&log, &[i], 100).await;
        }
        let end = log.close().await.unwrap();
        let segment = segment_path(&path, 0, SegmentFileKind::Log);
        let mut bytes = std::fs::read(&segment).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&segment, &bytes).unwrap();
        // More was on stable storage than the damaged batch can have held.
        let refused = open(&files, &path, unclean(end + 1)).await;
        assert!(matches!(refused, Err(LogError::Corrupt { .. })));
        let (log, recovery) = open(&files, &path, unclean(end)).await.unwrap();
        assert_eq!(recovery.damaged.len(), 1);
        assert_eq!(recovery.truncated, None);
        assert_eq!(log.log_end_offset(), end);
        append(&log, &[5], 100).await;
        let (batches, damage) = survivors(&log, 1 << 20).await;
        assert_eq!(batches.len(), 5);
        assert_eq!(damage, recovery.damaged);
        assert_eq!(std::fs::read(&segment).unwrap()[..bytes.len()], bytes);
    });
}

#[test]
fn of_many_damages_the_closest_become_one() {
    let place = Place::new();
    let path = place.partition();
    run(move |files| async move {
        let config = LogConfig {
            segment_bytes: 1 << 20,
            ..small()
        };
        let log = Log::create(&files, &path, TOPIC_ID, config).await.unwrap();
        for i in 0..600 {
            append(&log, &[i], 40).await;
        }
        let end = log.close().await.unwrap();
        let segment = segment_path(&path, 0, SegmentFileKind::Log);
        let mut bytes = std::fs::read(&segment).unwrap();
        let size = bytes.len() / 600;
        for i in (0..600).step_by(2) {
            bytes[i * size + size - 1] ^= 1;
        }
        std::fs::write(&segment, &bytes).unwrap();
        let (log, _) = open(&files, &path, clean(end)).await.unwrap();
        let (_, damage) = survivors(&log, 1 << 20).await;
        assert_eq!(damage.len(), 300);
        let (batches, damage) = survivors(&log, 1 << 20).await;
        assert_eq!(damage, []);
        assert!((200..300).contains(&batches.len()), "{}", batches.len());
    });
}

/// A message of magic 1.
fn message(offset: i64, attributes: u8, value: &[u8]) -> Vec<u8> {
    let mut sealed = vec![1, attributes];
    sealed.extend_from_slice(&77i64.to_be_bytes());
    sealed.extend_from_slice(&(-1i32).to_be_bytes());
    sealed.extend_from_slice(&(value.len() as i32).to_be_bytes());
    sealed.extend_from_slice(value);
    let mut bytes = offset.to_be_bytes().to_vec();
    bytes.extend_from_slice(&(sealed.len() as i32 + 4).to_be_bytes());
    bytes.extend_from_slice(&crc_fast::crc32_iso_hdlc(&sealed).to_be_bytes());
    bytes.extend_from_slice(&sealed);
    bytes
}

#[test]
fn damage_before_a_wrapper_does_not_hide_its_first_records() {
    // The length, then only a body: what follows is searched, or begins where the length says.
    for damaged_byte in [8, 70] {
        let mut bytes = batch(&[1, 2, 3], 5).bytes.to_vec();
        bytes[damaged_byte] ^= 0x40;
        let inner: Vec<u8> = (0..3).flat_map(|i| message(i, 0, b"hello")).collect();
        let mut packed = Vec::new();
        crate::record::compression::compress(Compression::Gzip, &inner, &mut packed).unwrap();
        bytes.extend_from_slice(&message(5, 1, &packed));
        let place = Place::new();
        std::fs::create_dir(place.partition()).unwrap();
        let path = place.partition();
        std::fs::write(segment_path(&path, 0, SegmentFileKind::Log), &bytes).unwrap();
        run(move |files| async move {
            let (log, _) = open(&files, &path, unclean(6)).await.unwrap();
            let end = log.end_position();
            assert_eq!(end.offset, 6);
            assert!(log.read(2, 1000, end, true).await.is_err());
            assert_eq!(log.offset_behind_damage(2), Some(3));
            for offset in 3..6 {
                let slice = log.read(offset, 1000, end, true).await.unwrap().unwrap();
                assert!(slice.position > 0, "{slice:?}");
            }
        });
    }
}
