//! A good log passes; a lost, doubled, swapped or changed batch is found.

use super::*;
use crate::records::{Form, Sent};
use crate::workload::{Workload, build_pools};

fn catalog() -> Rc<Catalog> {
    let workload = Workload {
        connections: 2,
        partitions: 1,
        record_bytes: 50,
        records_per_batch: 3,
        ..Workload::default()
    };
    Rc::new(Catalog::new(&build_pools(&workload, 4).unwrap()).unwrap())
}

/// A log of the batches (connection, place), 3 records each, offsets as a broker gives them.
fn log(catalog: &Catalog, batches: &[(usize, usize)]) -> Vec<u8> {
    let mut log = Vec::new();
    for (number, (connection, place)) in batches.iter().enumerate() {
        let mut stored = catalog.pools()[*connection][*place].clone();
        batch::patch(&mut stored, 3 * number as i64, 7);
        log.extend_from_slice(&stored);
    }
    log
}

fn read(batches: &[(usize, usize)], sent: &[u64]) -> Result<(), Violation> {
    let catalog = catalog();
    let mut check = LogCheck::new(0, 0, 2);
    check.read(
        &log(&catalog, batches),
        Some(&Content::Bytes(Rc::clone(&catalog))),
        |_| {},
    )?;
    check.finish(3 * batches.len() as i64, sent)
}

#[test]
fn a_whole_log_passes_and_batches_of_two_connections_may_mix() {
    let batches = [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 3), (0, 0)];
    assert_eq!(read(&batches, &[5, 2]), Ok(()));
}

#[test]
fn a_lost_batch_is_found() {
    let lost = read(&[(0, 0), (0, 2)], &[3, 0]).unwrap_err();
    assert!(matches!(lost, Violation::Lost { .. }), "{lost}");
    let lost = read(&[(0, 0), (0, 1)], &[3, 0]).unwrap_err();
    assert!(matches!(lost, Violation::Lost { .. }), "{lost}");
    // A whole round of four is gone: only the count shows it.
    let lost = read(&[(0, 0), (0, 1)], &[6, 0]).unwrap_err();
    assert!(matches!(lost, Violation::Lost { .. }), "{lost}");
}

#[test]
fn a_header_that_is_dropped_or_added_is_found() {
    let sent = |number: u8| Sent {
        key: None,
        value: vec![number; 10],
    };
    let sent = vec![sent(1), sent(2)];
    let stored = |stamp| {
        let form = Form {
            stamp,
            ..Workload::default().form()
        };
        form.encode(&sent).unwrap()
    };
    let read = |stored: &[u8], stamped| {
        let order = Order::Sole {
            connection: 0,
            begin: 0,
        };
        let content = Content::Records(Records {
            sent: Rc::new(vec![vec![sent.clone()]]),
            orders: Rc::new(vec![order]),
            stamped,
        });
        LogCheck::new(0, 0, 1).read(stored, Some(&content), |_| {})
    };
    assert_eq!(read(&stored(Some(5)), true), Ok(1));
    assert_eq!(read(&stored(None), false), Ok(1));
    for (stamp, stamped) in [(None, true), (Some(5), false)] {
        let changed = read(&stored(stamp), stamped).unwrap_err();
        assert!(matches!(changed, Violation::Changed { .. }), "{changed}");
    }
}

#[test]
fn a_doubled_batch_is_found() {
    let doubled = read(&[(0, 0), (0, 1), (0, 1)], &[2, 0]).unwrap_err();
    assert!(matches!(doubled, Violation::Duplicated { .. }), "{doubled}");
    let doubled = read(&[(0, 0), (0, 1)], &[1, 0]).unwrap_err();
    assert!(matches!(doubled, Violation::Duplicated { .. }), "{doubled}");
}

#[test]
fn swapped_batches_are_found() {
    assert!(read(&[(0, 1), (0, 0)], &[2, 0]).is_err());
    let swapped = read(&[(0, 0), (0, 3), (0, 2), (0, 1)], &[4, 0]).unwrap_err();
    assert!(matches!(swapped, Violation::Reordered { .. }), "{swapped}");
}

#[test]
fn a_changed_byte_and_a_gap_of_offsets_are_found() {
    let catalog = catalog();
    let mut bytes = log(&catalog, &[(0, 0)]);
    *bytes.last_mut().unwrap() ^= 1;
    let mut check = LogCheck::new(0, 0, 2);
    let changed = check
        .read(&bytes, Some(&Content::Bytes(Rc::clone(&catalog))), |_| {})
        .unwrap_err();
    assert!(matches!(changed, Violation::Changed { .. }), "{changed}");

    let mut bytes = log(&catalog, &[(0, 0)]);
    batch::patch(&mut bytes, 1, 0);
    let gap =
        LogCheck::new(0, 0, 2).read(&bytes, Some(&Content::Bytes(Rc::clone(&catalog))), |_| {});
    assert!(matches!(gap, Err(Violation::Lost { .. })), "{gap:?}");
}

#[test]
fn a_cut_off_last_batch_is_left_for_the_next_fetch() {
    let catalog = catalog();
    let bytes = log(&catalog, &[(0, 0), (0, 1)]);
    let mut check = LogCheck::new(0, 0, 2);
    let read = check.read(
        &bytes[..bytes.len() - 1],
        Some(&Content::Bytes(Rc::clone(&catalog))),
        |_| {},
    );
    assert_eq!((read, check.next_offset()), (Ok(1), 3));
    // The next answer may begin with the batch that was read already.
    assert_eq!(
        check.read(&bytes, Some(&Content::Bytes(Rc::clone(&catalog))), |_| {}),
        Ok(1)
    );
    assert_eq!((check.next_offset(), check.records()), (6, 6));
    assert_eq!(check.bytes(), bytes.len() as u64);
}

#[test]
fn the_ledger_wants_gapless_offsets_that_rise_for_each_connection() {
    let mut ledger = Ledger::new(0, 100);
    ledger.acknowledge(0, 105, 5).unwrap();
    assert!(matches!(ledger.finish(), Err(Violation::Lost { .. })));
    ledger.acknowledge(1, 100, 5).unwrap();
    assert_eq!(ledger.finish(), Ok(110));

    let doubled = ledger.acknowledge(1, 108, 5).unwrap_err();
    assert!(matches!(doubled, Violation::Duplicated { .. }), "{doubled}");
    let mut ledger = Ledger::new(0, 0);
    ledger.acknowledge(0, 10, 5).unwrap();
    let overlap = ledger.acknowledge(1, 8, 5).unwrap_err();
    assert!(matches!(overlap, Violation::Duplicated { .. }), "{overlap}");
    let reordered = ledger.acknowledge(0, 5, 5).unwrap_err();
    assert!(
        matches!(reordered, Violation::Reordered { .. }),
        "{reordered}"
    );
}
