//! Tests of opening: clean, unclean, torn, garbled, foreign.

use super::*;

fn log_file(directory: &Path, base_offset: i64) -> PathBuf {
    segment_path(directory, base_offset, SegmentFileKind::Log)
}

/// A closed log of several segments; gives the end offset and the segments.
fn filled(place: &Place, close: bool) -> (i64, Vec<SegmentInfo>) {
    let path = place.partition();
    let result = Rc::new(RefCell::new(None));
    let slot = result.clone();
    run(move |files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
        for i in 0..100 {
            append(&log, &[i, i], 100).await;
        }
        if close {
            assert_eq!(log.close().await.unwrap(), 200);
        }
        slot.replace(Some((log.log_end_offset(), log.segments())));
    });
    result.take().unwrap()
}

#[test]
fn a_clean_stop_is_believed_without_a_scan() {
    let place = Place::new();
    let (end, segments) = filled(&place, true);
    let path = place.partition();
    run(move |files| async move {
        let (log, recovery) = open(&files, &path, clean(end)).await.unwrap();
        assert_eq!(recovery, Recovery::default());
        assert_eq!(log.log_end_offset(), end);
        assert_eq!(log.recovery_point(), end);
        assert_eq!(log.topic_id(), Some(TOPIC_ID));
        assert!(!log.is_dirty());
        let sizes = |segments: &[SegmentInfo]| -> Vec<(i64, u32)> {
            segments.iter().map(|s| (s.base_offset, s.size)).collect()
        };
        assert_eq!(sizes(&log.segments()), sizes(&segments));
        assert_eq!(read_all(&log, 0, 1000).await.len(), 100);
        append(&log, &[100], 100).await;
        assert_eq!(read_all(&log, 0, 1000).await.len(), 101);
        let mut visited = 0;
        log.visit_batches(50, &mut |_, _| visited += 1)
            .await
            .unwrap();
        assert_eq!(visited, 76);
    });
}

#[test]
fn after_a_crash_everything_past_the_recovery_point_is_read() {
    let place = Place::new();
    let (end, segments) = filled(&place, false);
    let path = place.partition();
    for recovery_point in [0, 1, segments[2].base_offset, end] {
        let path = path.clone();
        let segments = segments.clone();
        run(move |files| async move {
            let mut seen = Vec::new();
            let opening = unclean(recovery_point);
            let (log, recovery) =
                Log::open(&files, &path, small(), opening, &mut |header, bytes| {
                    assert_eq!(header.size_in_bytes(), bytes.len());
                    seen.push(header.base_offset);
                })
                .await
                .unwrap();
            assert_eq!(log.log_end_offset(), end);
            assert_eq!(log.recovery_point(), recovery_point);
            assert_eq!(recovery.truncated, None);
            let from = segments
                .iter()
                .rfind(|s| s.base_offset <= recovery_point)
                .unwrap();
            assert_eq!(seen[0], from.base_offset);
            assert_eq!(recovery.scanned_batches, seen.len() as u64);
            assert!(log.is_dirty());
            assert_eq!(log.flush().await.unwrap(), end);
            assert_eq!(read_all(&log, 0, 1000).await.len(), 100);
        });
    }
}

#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    for in_first_batch in [true, false] {
        let place = Place::new();
        let path = place.partition();
        let size = Rc::new(Cell::new((0, 0)));
        let seen = size.clone();
        run(move |files| async move {
            let log = Log::create(&files, &path, TOPIC_ID, small()).await.unwrap();
            if !in_first_batch {
                append(&log, &[1, 2, 3], 30).await;
            }
            let start = log.end_position().position;
            append(&log, &[4], 30).await;
            seen.set((start, log.end_position().position));
        });
        let path = log_file(&place.partition(), 0);
        let whole = std::fs::read(&path).unwrap();
        let (start, end) = size.get();
        for length in start..=end {
            for filling in [None, Some(0), Some(0xff)] {
                let mut torn = whole[..length as usize].to_vec();
                if let Some(byte) = filling {
                    torn.resize(whole.len() + 50, byte);
                }
                std::fs::write(&path, &torn).unwrap();
                let (directory, whole) = (place.partition(), whole.clone());
                run(move |files| async move {
                    let opened = open(&files, &directory, unclean(0)).await;
                    if in_first_batch && filling == Some(0xff) && length < 17 {
                        // No crash writes this: a file that is no segment.
                        if let Err(error) = opened {
                            assert!(matches!(error, LogError::Foreign { .. }), "{error}");
                        }
                        return;
                    }
                    let (log, recovery) = opened.unwrap();
                    let next = if in_first_batch { 0 } else { 3 };
                    // A batch ends with zeros, which the filling may restore.
                    let is_whole = torn.starts_with(&whole);
                    let expected = if is_whole { next + 1 } else { next };
                    assert_eq!(log.log_end_offset(), expected, "{length} {filling:?}");
                    let good = if is_whole { end } else { start };
                    let is_quiet = torn[good as usize..].iter().all(|byte| *byte == 0);
                    if is_quiet {
                        assert_eq!(recovery.truncated, None, "{length} {filling:?}");
                    } else {
                        let truncated = recovery.truncated.unwrap();
                        assert_eq!(truncated.position, u64::from(good));
                        assert_eq!(truncated.offset, expected);
                    }
                    append(&log, &[9], 10).await;
                    assert_eq!(log.close().await.unwrap(), expected + 1);
                });
            }
        }
    }
}

#[test]
fn a_bad_batch_cuts_the_log_and_later_segments() {
    let place = Place::new();
    let (_, segments) = filled(&place, false);
    let directory = place.partition();
    let path = log_file(&directory, segments[1].base_offset);
    let mut bytes = std::fs::read(&path).unwrap();
    let in_last_value = bytes.len() - 3;
    bytes[in_last_value] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let bases: Vec<i64> = segments.iter().map(|s| s.base_offset).collect();
    run(move |files| async move {
        // Above the bad batch: it was durable, and is not cut.
        let error = open(&files, &directory, unclean(bases[2] - 1))
            .await
            .err()
            .unwrap();
        assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
        assert_eq!(files.open_count(), 0);
        let (log, recovery) = open(&files, &directory, unclean(bases[1])).await.unwrap();
        let truncated = recovery.truncated.unwrap();
        assert!(truncated.reason.contains("crc"), "{}", truncated.reason);
        assert_eq!(truncated.offset, log.log_end_offset());
        assert!(log.log_end_offset() >= bases[1] && log.log_end_offset() < bases[2]);
        assert_eq!(log.segments().len(), 2);
        read_all(&log, 0, 500).await;
    });
    assert!(!log_file(&place.partition(), segments[2].base_offset).exists());
}

#[test]
fn a_missing_end_of_a_segment_may_be_compactions() {
    for (is_compacted, is_below) in [(false, false), (true, false), (true, true)] {
        let place = Place::new();
        let (end, segments) = filled(&place, false);
        let directory = place.partition();
        let path = log_file(&directory, 0);
        let bytes = std::fs::read(&path).unwrap();
        let header = BatchHeader::parse(&bytes).unwrap();
        std::fs::write(&path, &bytes[..header.size_in_bytes()]).unwrap();
        assert!(segments.len() > 2);
        run(move |files| async move {
            let config = LogConfig {
                is_compacted,
                ..small()
            };
            let opening = Opening {
                compacts_below_recovery_point: is_below,
                ..unclean(0)
            };
            let opened = Log::open(&files, &directory, config, opening, &mut |_, _| {}).await;
            let (log, recovery) = opened.unwrap();
            if is_compacted && !is_below {
                assert_eq!(log.log_end_offset(), end);
                let slice = log.read(5, 100, log.end_position(), true).await.unwrap();
                assert_eq!(slice.unwrap().first_offset, log.segments()[1].base_offset);
                assert!(log.position_of(5).await.unwrap().segment_base > 0);
                assert_eq!(log.truncate_to(5).await.unwrap(), 5);
                assert_eq!(append(&log, &[1], 10).await.base_offset, 5);
                assert_eq!(read_all(&log, 0, 100).await.len(), 2);
            } else {
                assert_eq!(log.log_end_offset(), 2);
                assert!(recovery.truncated.unwrap().reason.contains("missing"));
            }
        });
    }
}

#[test]
fn index_files_are_rebuilt_when_missing_or_garbled() {
    let place = Place::new();
    let (end, segments) = filled(&place, true);
    let garbles: [&dyn Fn(&Path); 5] = [
        &|path| std::fs::remove_file(path).unwrap(),
        &|path| std::fs::write(path, [1, 2, 3]).unwrap(),
        &|path| std::fs::write(path, [0xff; 96]).unwrap(),
        &|path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, [&bytes[..], &bytes[..]].concat()).unwrap();
        },
        &|path| {
            // Plausible entries that point between batches.
            let mut bytes = std::fs::read(path).unwrap();
            let is_time = path.extension().is_some_and(|e| e == "timeindex");
            for entry in bytes.chunks_exact_mut(if is_time { 12 } else { 8 }) {
                let last = entry.len() - 1;
                entry[last] = entry[last].wrapping_add(1);
            }
            std::fs::write(path, bytes).unwrap();
        },
    ];
    for (number, garble) in garbles.iter().enumerate() {
        for segment in [segments.first().unwrap(), segments.last().unwrap()] {
            for kind in [SegmentFileKind::Index, SegmentFileKind::TimeIndex] {
                let path = segment_path(&place.partition(), segment.base_offset, kind);
                let whole = std::fs::read(&path).unwrap();
                garble(&path);
                let directory = place.partition();
                let after = path.clone();
                run(move |files| async move {
                    let (log, _) = open(&files, &directory, clean(end)).await.unwrap();
                    for offset in 0..end {
                        let limit = log.end_position();
                        let slice = log.read(offset, 1, limit, true).await.unwrap().unwrap();
                        assert_eq!(
                            slice.first_offset,
                            offset / 2 * 2,
                            "garble {number} {after:?}"
                        );
                    }
                    for i in 0..100 {
                        if number == 4 && kind == SegmentFileKind::TimeIndex {
                            continue;
                        }
                        let found = log.offset_for_timestamp(i).await.unwrap().unwrap();
                        assert_eq!(found.offset, i * 2, "garble {number} {after:?}");
                    }
                    log.close().await.unwrap();
                });
                std::fs::write(&path, whole).unwrap();
            }
        }
    }
}

#[test]
fn rebuilt_indexes_are_those_that_were_written() {
    let place = Place::new();
    let (end, segments) = filled(&place, true);
    let files_of = |kind: SegmentFileKind| -> Vec<Vec<u8>> {
        let path = |s: &SegmentInfo| segment_path(&place.partition(), s.base_offset, kind);
        segments
            .iter()
            .map(|s| std::fs::read(path(s)).unwrap())
            .collect()
    };
    let kinds = [SegmentFileKind::Index, SegmentFileKind::TimeIndex];
    let before: Vec<_> = kinds.iter().map(|kind| files_of(*kind)).collect();
    for segment in &segments {
        for kind in kinds {
            std::fs::remove_file(segment_path(&place.partition(), segment.base_offset, kind))
                .unwrap();
        }
    }
    let directory = place.partition();
    run(move |files| async move {
        let (log, _) = open(&files, &directory, unclean(0)).await.unwrap();
        assert_eq!(log.close().await.unwrap(), end);
    });
    let after: Vec<_> = kinds.iter().map(|kind| files_of(*kind)).collect();
    assert_eq!(before, after);
}

#[test]
fn preallocated_segments_are_cut_without_complaint() {
    let place = Place::new();
    let path = place.partition();
    let config = LogConfig {
        preallocate: true,
        ..small()
    };
    run(move |files| async move {
        let log = Log::create(&files, &path, TOPIC_ID, config.clone())
            .await
            .unwrap();
        for i in 0..30 {
            append(&log, &[i], 200).await;
        }
        assert!(log.segments().len() > 1);
        drop(log);
        let length = std::fs::metadata(log_file(&path, 0)).unwrap().len();
        assert!(length < 4096);
        let opened = Log::open(&files, &path, config.clone(), unclean(0), &mut |_, _| {}).await;
        let (log, recovery) = opened.unwrap();
        assert_eq!(recovery.truncated, None);
        assert!(recovery.zero_bytes > 0);
        assert_eq!(log.log_end_offset(), 30);
        log.close().await.unwrap();
        drop(log);
        let opened = Log::open(&files, &path, config, clean(30), &mut |_, _| {}).await;
        assert_eq!(opened.unwrap().1, Recovery::default());
    });
}

#[test]
fn what_is_no_log_is_refused_and_kept() {
    let contents: [&[u8]; 4] = [
        b"hello, this is no segment at all",
        &[0xff; 1000],
        b"x",
        b"PK\x03\x04",
    ];
    for garbage in contents {
        for is_clean in [true, false] {
            let place = Place::new();
            std::fs::create_dir(place.partition()).unwrap();
            let path = log_file(&place.partition(), 0);
            std::fs::write(&path, garbage).unwrap();
            let directory = place.partition();
            run(move |files| async move {
                let opening = if is_clean { clean(0) } else { unclean(0) };
                let error = open(&files, &directory, opening).await.err().unwrap();
                assert!(matches!(error, LogError::Foreign { .. }), "{error}");
            });
            assert_eq!(std::fs::read(&path).unwrap(), garbage);
        }
    }
    for name in [
        "000.log",
        "x.log",
        "0000000000000000000a.log",
        "99999999999999999999.log",
    ] {
        let place = Place::new();
        std::fs::create_dir(place.partition()).unwrap();
        std::fs::write(place.partition().join(name), b"data").unwrap();
        let directory = place.partition();
        run(move |files| async move {
            let error = open(&files, &directory, unclean(0)).await.err().unwrap();
            assert!(error.to_string().contains("move it out"), "{error}");
        });
    }
}

#[test]
fn a_log_that_lost_its_segments_does_not_start_empty() {
    let place = Place::new();
    std::fs::create_dir(place.partition()).unwrap();
    let directory = place.partition();
    // An empty one would say that the partition is wanted anew.
    std::fs::write(directory.join("leader-epoch-checkpoint"), "0\n0\n").unwrap();
    run(move |files| async move {
        let error = open(&files, &directory, unclean(10)).await.err().unwrap();
        assert!(error.to_string().contains("stable storage"), "{error}");
        let accepted = Opening {
            accept_loss: true,
            ..unclean(10)
        };
        let (log, _) = open(&files, &directory, accepted).await.unwrap();
        assert_eq!(log.log_end_offset(), 0);
        drop(log);
        let missing = directory.join("not-there-0");
        let error = open(&files, &missing, unclean(0)).await.err().unwrap();
        assert!(matches!(error, LogError::Io { .. }), "{error}");
    });
}

#[test]
fn a_segment_that_is_not_there_is_a_loss_if_it_was_flushed() {
    let (_, segments) = filled(&Place::new(), true);
    let (first, third) = (segments[0].base_offset, segments[2].base_offset);
    // The one that is gone, how the log is opened, and where it ends then, if it may be cut.
    let cases = [
        (third, clean(200), None),
        (third, unclean(200), None),
        (third, unclean(third + 1), None),
        (third, unclean(third), Some(third)),
        (third, unclean(0), Some(third)),
        (first, unclean(0), None),
    ];
    for (gone, opening, cut) in cases {
        let place = Place::new();
        filled(&place, true);
        std::fs::remove_file(log_file(&place.partition(), gone)).unwrap();
        let path = place.partition();
        run(move |files| async move {
            let opened = open(&files, &path, opening).await;
            match (opened, cut) {
                (Err(error), None) => {
                    assert!(error.to_string().contains("not there"), "{error}");
                }
                (Ok((log, recovery)), Some(end)) => {
                    assert_eq!(log.log_end_offset(), end, "{recovery:?}");
                    assert!(recovery.truncated.is_some(), "{recovery:?}");
                    let index = segment_path(&path, gone, SegmentFileKind::Index);
                    assert!(!index.exists(), "{recovery:?}");
                }
                (opened, _) => panic!("{gone} {opening:?}: {:?}", opened.map(|(_, found)| found)),
            }
        });
    }
}

#[test]
fn deletions_and_compactions_under_way_are_ended_as_kafka_does() {
    let place = Place::new();
    let (end, segments) = filled(&place, true);
    let directory = place.partition();
    let second = segments[1].base_offset;
    let third = segments[2].base_offset;
    // A finished compaction of the first two segments, not yet swapped in.
    let first = std::fs::read(log_file(&directory, 0)).unwrap();
    let more = std::fs::read(log_file(&directory, second)).unwrap();
    let swap = directory.join(format!("{:020}.log.swap", 0));
    std::fs::write(&swap, [&first[..], &more[..]].concat()).unwrap();
    std::fs::write(directory.join(format!("{:020}.index.deleted", 3)), b"x").unwrap();
    std::fs::write(directory.join(format!("{third:020}.log.cleaned")), b"x").unwrap();
    std::fs::write(directory.join(format!("{third:020}.log.swap")), b"x").unwrap();
    std::fs::write(directory.join(format!("{:020}.index", 1_000_000)), b"x").unwrap();
    std::fs::write(directory.join("notes.txt"), b"x").unwrap();
    run(move |files| async move {
        let (log, recovery) = open(&files, &directory, clean(end)).await.unwrap();
        assert_eq!(log.log_end_offset(), end);
        assert_eq!(log.segments()[1].base_offset, third);
        assert!(recovery.changed_files.len() >= 6, "{recovery:?}");
        assert_eq!(read_all(&log, 0, 1000).await.len(), 100);
    });
    let names = place.names();
    assert!(names.contains(&"notes.txt".to_owned()));
    let is_left = |name: &String| {
        name.ends_with(".swap") || name.ends_with(".cleaned") || name.ends_with(".deleted")
    };
    assert!(!names.iter().any(is_left), "{names:?}");
    assert!(!names.contains(&format!("{second:020}.log")));
}

#[test]
fn old_message_sets_in_adopted_directories_are_kept() {
    // The 142 bytes of `kafka-conventions.md`: a batch of 3 records and a magic 1 message at offset 3.
    let mut bytes = {
        let batch = batch(&[1, 2, 3], 5);
        batch.bytes.to_vec()
    };
    let mut message = Vec::new();
    message.extend_from_slice(&[1, 0]);
    message.extend_from_slice(&77i64.to_be_bytes());
    message.extend_from_slice(&(-1i32).to_be_bytes());
    message.extend_from_slice(&5i32.to_be_bytes());
    message.extend_from_slice(b"hello");
    let crc = crc_fast::crc32_iso_hdlc(&message);
    bytes.extend_from_slice(&3i64.to_be_bytes());
    bytes.extend_from_slice(&(message.len() as i32 + 4).to_be_bytes());
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes.extend_from_slice(&message);
    let place = Place::new();
    std::fs::create_dir(place.partition()).unwrap();
    std::fs::write(log_file(&place.partition(), 0), &bytes).unwrap();
    let directory = place.partition();
    run(move |files| async move {
        let (log, recovery) = open(&files, &directory, unclean(0)).await.unwrap();
        assert_eq!(recovery.truncated, None);
        assert_eq!(log.log_end_offset(), 4);
        let found = log.offset_for_timestamp(50).await.unwrap().unwrap();
        assert_eq!((found.timestamp, found.offset), (77, 3));
        append(&log, &[99], 5).await;
        assert_eq!(read_all(&log, 0, 1).await.len(), 3);
    });
}

#[test]
fn a_start_offset_above_the_end_begins_anew() {
    let place = Place::new();
    filled(&place, false);
    let directory = place.partition();
    run(move |files| async move {
        let opening = Opening {
            log_start_offset: Some(1000),
            ..unclean(0)
        };
        let (log, _) = open(&files, &directory, opening).await.unwrap();
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (1000, 1000));
        assert_eq!(append(&log, &[1], 5).await.base_offset, 1000);
        assert_eq!(log.segments().len(), 1);
    });
}

#[test]
fn a_crash_while_the_log_begins_anew_at_its_start_offset_loses_nothing() {
    let place = Place::new();
    filled(&place, false);
    let directory = place.partition();
    // Its segments had been removed, its new one had not been made.
    let segments = std::fs::read_dir(&directory).unwrap();
    for entry in segments.map(|entry| entry.unwrap().path()) {
        if entry.file_name().unwrap() != "partition.metadata" {
            std::fs::remove_file(entry).unwrap();
        }
    }
    std::fs::write(directory.join("leader-epoch-checkpoint"), "0\n0\n").unwrap();
    run(move |files| async move {
        let opening = |log_start_offset| Opening {
            log_start_offset: Some(log_start_offset),
            ..unclean(2)
        };
        let refused = open(&files, &directory, opening(1)).await.map(|_| ());
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("stable storage up to 2"), "{refused}");
        let (log, _) = open(&files, &directory, opening(2)).await.unwrap();
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (2, 2));
        assert_eq!(append(&log, &[1], 5).await.base_offset, 2);
    });
}
