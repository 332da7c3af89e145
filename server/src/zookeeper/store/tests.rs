//! Tests of the store.

use super::unnamed::NEW_STORE_FILE;
use super::*;
use crate::zookeeper::acl::{self, Acl};
use crate::zookeeper::transaction::{Context, Lifetime, Operation};

const ROOM: usize = 1 << 30;

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("ringlog-zookeeper-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn open(&self) -> Result<(Store, Stored), StoreError> {
        let (mut store, stored) = self.open_unsettled()?;
        store.settle()?;
        Ok((store, stored))
    }

    fn open_unsettled(&self) -> Result<(Store, Stored), StoreError> {
        Store::open(&self.0, &mut Tree::new(ROOM))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn create(path: String) -> Operation {
    Operation::Create {
        path,
        data: Some(Bytes::from_static(b"data")),
        acl: Acl::anyone(acl::ALL),
        lifetime: Lifetime::Ephemeral,
        is_sequential: false,
    }
}

fn fill(store: &Store, stored: Stored) -> Tree {
    let mut tree = Tree::from_nodes(stored.nodes, ROOM).unwrap();
    let mut sessions = Sessions::new(2000, 1);
    let session = sessions.open([9; 16], 6000, 0);
    for zxid in 1..=50 {
        let context = Context {
            session,
            ids: &[],
            zxid,
            time_ms: zxid,
        };
        tree.apply(context, &[create(format!("/node-{zxid}"))])
            .unwrap();
    }
    store.save(50, &mut tree, &mut sessions).unwrap();
    assert!(!tree.is_changed() && !sessions.is_changed());
    tree
}

#[test]
fn what_was_saved_is_there_again() {
    let directory = Directory::new("again");
    let (store, stored) = directory.open().unwrap();
    assert_eq!((stored.nodes.len(), stored.zxid), (4, 0));
    let tree = fill(&store, stored);
    drop(store);
    let (_, stored) = directory.open().unwrap();
    assert_eq!(stored.zxid, 50);
    assert!(matches!(stored.sessions[..], [(_, password, 6000)] if password == [9; 16]));
    let again = Tree::from_nodes(stored.nodes, ROOM).unwrap();
    assert_eq!(again.len(), tree.len());
    assert_eq!(again.get("/node-7"), tree.get("/node-7"));
    assert_eq!(again.get("/"), tree.get("/"));
}

#[test]
fn a_store_in_use_is_refused() {
    let directory = Directory::new("use");
    let refuse = || {
        let error = directory.open().map(drop).unwrap_err();
        assert!(matches!(error, StoreError::InUse(_)), "{error}");
    };
    let (mut running, _) = directory.open_unsettled().unwrap();
    refuse();
    running.settle().unwrap();
    refuse();
}

#[test]
fn a_new_store_that_was_never_settled_is_begun_anew() {
    let directory = Directory::new("unsettled-new");
    let (store, stored) = directory.open_unsettled().unwrap();
    fill(&store, stored);
    assert!(!directory.0.join(STORE_FILE).exists());
    drop(store);
    let (_, stored) = directory.open().unwrap();
    assert_eq!((stored.nodes.len(), stored.zxid), (4, 0));
}

/// The file as it is at this moment is what the end of a process leaves, a crash of the machine at most
/// as much: nothing was synced.
#[test]
fn what_was_saved_before_it_was_settled_counts_only_then() {
    let (directory, after) = (
        Directory::new("unsettled"),
        Directory::new("unsettled-copy"),
    );
    drop(directory.open().unwrap());
    let (mut store, stored) = directory.open_unsettled().unwrap();
    fill(&store, stored);
    fs::create_dir_all(&after.0).unwrap();
    let copied = || {
        fs::copy(directory.0.join(STORE_FILE), after.0.join(STORE_FILE)).unwrap();
        let (_, stored) = after.open().unwrap();
        (stored.nodes.len(), stored.zxid)
    };
    assert_eq!(copied(), (4, 0));
    store.settle().unwrap();
    assert_eq!(copied(), (54, 50));
}

#[test]
fn damage_is_told_and_never_read_as_empty() {
    let directory = Directory::new("damage");
    let (store, stored) = directory.open().unwrap();
    let tree = fill(&store, stored);
    let path = store.path().to_owned();
    drop(store);
    let good = fs::read(&path).unwrap();
    for bytes in [
        &b""[..],
        b"not a database",
        &good[..good.len() / 2],
        &[0; 4096],
    ] {
        fs::write(&path, bytes).unwrap();
        let error = directory.open().map(drop).unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "{} bytes: {error}",
            bytes.len()
        );
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), bytes, "it was changed");
    }
    // A flipped bit is told, or stands where no data are.
    let mut told = 0;
    let wanted = tree.get("/node-7").cloned();
    for place in (0..good.len()).step_by(1009) {
        let mut bad = good.clone();
        bad[place] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        match directory.open() {
            Ok((_, stored)) => {
                let again = Tree::from_nodes(stored.nodes, ROOM).unwrap();
                assert_eq!(
                    (again.len(), again.get("/node-7").cloned()),
                    (tree.len(), wanted.clone()),
                    "byte {place}"
                );
            }
            Err(_) => told += 1,
        }
    }
    eprintln!("{told} of {} flips were told", good.len().div_ceil(1009));
    assert!(told > 0, "no flipped bit was noticed");
}

#[test]
fn the_data_of_apache_zookeeper_are_not_shadowed() {
    let directory = Directory::new("foreign");
    fs::create_dir_all(directory.0.join("version-2")).unwrap();
    fs::write(directory.0.join("version-2/log.1"), b"ZKLG").unwrap();
    assert!(matches!(
        directory.open().map(drop),
        Err(StoreError::Foreign(_))
    ));
}

#[test]
fn a_crash_while_it_is_made_leaves_nothing_behind() {
    let directory = Directory::new("made");
    fs::create_dir_all(&directory.0).unwrap();
    fs::write(directory.0.join(NEW_STORE_FILE), b"half").unwrap();
    let (_, stored) = directory.open().unwrap();
    assert_eq!(stored.nodes.len(), 4);
    assert!(!directory.0.join(NEW_STORE_FILE).exists());
}

#[test]
fn malformed_records_are_errors() {
    let node = Node::new(None, Acl::anyone(1).into(), NodeStat::default());
    let record = encode_node(&node);
    assert_eq!(decode_node(&record), Ok(node));
    for length in 0..record.len() {
        assert!(decode_node(&record[..length]).is_err());
    }
    assert!(decode_node(&[record, vec![0]].concat()).is_err());
    assert_eq!(decode_session(&[0; 19]), None);
}
