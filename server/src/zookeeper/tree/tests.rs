//! Tests of the tree.

use super::*;
use crate::zookeeper::acl::Id;

const ROOM: usize = 1 << 20;

fn context(zxid: i64, ids: &[Id]) -> Context<'_> {
    Context {
        session: 7,
        ids,
        zxid,
        time_ms: 1000 + zxid,
    }
}

fn create(path: &str) -> Operation {
    create_as(path, Lifetime::Persistent, false)
}

fn create_as(path: &str, lifetime: Lifetime, is_sequential: bool) -> Operation {
    Operation::Create {
        path: path.to_owned(),
        data: Some(Bytes::from_static(b"x")),
        acl: Acl::anyone(acl::ALL),
        lifetime,
        is_sequential,
    }
}

fn delete(path: &str) -> Operation {
    Operation::Delete {
        path: path.to_owned(),
        version: -1,
    }
}

fn set(path: &str, version: i32) -> Operation {
    Operation::SetData {
        path: path.to_owned(),
        data: None,
        version,
    }
}

fn code(tree: &mut Tree, operation: Operation) -> Option<ErrorCode> {
    tree.apply(context(99, &[]), &[operation])
        .err()
        .map(|refused| refused.code)
}

/// Everything a client could see, and what is counted.
fn picture(tree: &Tree) -> String {
    format!(
        "{:?} {:?} {:?} {}",
        tree.nodes, tree.ephemerals, tree.containers, tree.bytes
    )
}

#[test]
fn a_new_tree_is_that_of_a_new_zookeeper() {
    let tree = Tree::new(ROOM);
    let root = tree.get("/").unwrap().client_stat();
    assert_eq!((root.num_children, root.cversion), (1, -1));
    let zookeeper = tree.get("/zookeeper").unwrap().client_stat();
    assert_eq!((zookeeper.num_children, zookeeper.cversion), (2, -2));
    assert_eq!(
        tree.get("/zookeeper/config")
            .unwrap()
            .client_stat()
            .aversion,
        -1
    );
}

#[test]
fn errors_are_those_of_zookeeper() {
    use ErrorCode::{
        BadArguments, BadVersion, InvalidAcl, NoAuth, NoChildrenForEphemerals, NoNode, NodeExists,
        NotEmpty,
    };
    let mut tree = Tree::new(ROOM);
    let setup = [
        create("/a"),
        create("/a/b"),
        create_as("/e", Lifetime::Ephemeral, false),
    ];
    tree.apply(context(1, &[]), &setup).unwrap();
    let no_acl = Operation::Create {
        path: "/n".to_owned(),
        data: None,
        acl: Vec::new(),
        lifetime: Lifetime::Persistent,
        is_sequential: false,
    };
    for (operation, expected) in [
        (create("a"), BadArguments),
        (create("/a\0"), BadArguments),
        (create("/a/"), BadArguments),
        (no_acl, InvalidAcl),
        (create("/no/b"), NoNode),
        (create("/"), NodeExists),
        (create("/a"), NodeExists),
        (create("/e/x"), NoChildrenForEphemerals),
        (delete("/"), BadArguments),
        (delete("/zookeeper/quota"), BadArguments),
        (delete("/no"), NoNode),
        (delete("/no/b"), NoNode),
        (delete("/a"), NotEmpty),
        (
            Operation::Delete {
                path: "/a".to_owned(),
                version: 3,
            },
            BadVersion,
        ),
        (set("/a", 5), BadVersion),
        (set("/no", -1), NoNode),
        (set("/zookeeper/config", -1), NoAuth),
        (
            Operation::Check {
                path: "/a".to_owned(),
                version: 1,
            },
            BadVersion,
        ),
        (
            Operation::SetAcl {
                path: "/a".to_owned(),
                acl: Vec::new(),
                version: -1,
            },
            InvalidAcl,
        ),
    ] {
        let before = picture(&tree);
        let shown = format!("{operation:?}");
        assert_eq!(code(&mut tree, operation), Some(expected), "{shown}");
        assert_eq!(picture(&tree), before, "{shown} changed something");
    }
}

#[test]
fn sequence_numbers_count_creations_not_children() {
    let mut tree = Tree::new(ROOM);
    let mut next = |path: &str| {
        let applied = tree
            .apply(
                context(1, &[]),
                &[create_as(path, Lifetime::Persistent, true)],
            )
            .unwrap();
        match &applied.outcomes[0] {
            Outcome::Created(path, _) => path.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(next("/s-"), "/s-0000000000");
    // A name may be the number alone.
    assert_eq!(next("/"), "/0000000001");
    assert_eq!(code(&mut tree, delete("/s-0000000000")), None);
    let applied = tree
        .apply(
            context(2, &[]),
            &[create_as("/s-", Lifetime::Persistent, true)],
        )
        .unwrap();
    assert!(
        matches!(&applied.outcomes[0], Outcome::Created(path, _) if &**path == "/s-0000000002")
    );
}

#[test]
fn a_failed_transaction_leaves_no_trace() {
    let mut tree = Tree::new(ROOM);
    tree.apply(context(1, &[]), &[create("/a"), create("/a/b")])
        .unwrap();
    tree.take_changed();
    let before = picture(&tree);
    let operations = [
        set("/a", 0),
        delete("/a/b"),
        delete("/a"),
        create("/a"),
        create_as("/a/e", Lifetime::Ephemeral, true),
        create_as("/c", Lifetime::Container, false),
        Operation::SetAcl {
            path: "/c".to_owned(),
            acl: Acl::anyone(acl::READ),
            version: 0,
        },
        set("/nowhere", -1),
    ];
    let refused = tree.apply(context(2, &[]), &operations).unwrap_err();
    assert_eq!(
        refused,
        Refused {
            index: 7,
            code: ErrorCode::NoNode
        }
    );
    assert_eq!(picture(&tree), before);
    assert!(!tree.is_changed());
}

#[test]
fn the_end_of_a_session_deletes_its_ephemerals() {
    let mut tree = Tree::new(ROOM);
    let setup = [
        create("/a"),
        create_as("/a/e", Lifetime::Ephemeral, false),
        create_as("/f", Lifetime::Ephemeral, false),
    ];
    tree.apply(context(1, &[]), &setup).unwrap();
    assert_eq!(tree.ephemerals(7).count(), 2);
    let events = tree.end_session(7, 2);
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.change, &*event.path))
        .collect();
    assert_eq!(told, [(Change::Deleted, "/a/e"), (Change::Deleted, "/f")]);
    assert_eq!(tree.get("/a").unwrap().stat.pzxid, 2);
    assert_eq!((tree.ephemerals(7).count(), tree.owners().count()), (0, 0));
}

#[test]
fn containers_end_with_their_last_child() {
    let mut tree = Tree::new(ROOM);
    tree.apply(
        context(1, &[]),
        &[create_as("/c", Lifetime::Container, false)],
    )
    .unwrap();
    assert!(tree.empty_containers().is_empty(), "it never had a child");
    tree.apply(context(2, &[]), &[create("/c/x")]).unwrap();
    assert!(tree.empty_containers().is_empty());
    tree.apply(context(3, &[]), &[delete("/c/x")]).unwrap();
    assert_eq!(tree.empty_containers().len(), 1);
    assert_eq!(tree.delete_container("/c", 4).len(), 1);
    assert!(tree.get("/c").is_none() && tree.empty_containers().is_empty());
}

#[test]
fn memory_is_bounded() {
    let mut tree = Tree::new(20_000);
    let big = |path: &str| Operation::Create {
        path: path.to_owned(),
        data: Some(Bytes::from(vec![0; 9000])),
        acl: Acl::anyone(acl::ALL),
        lifetime: Lifetime::Persistent,
        is_sequential: false,
    };
    assert_eq!(code(&mut tree, big("/a")), None);
    assert_eq!(code(&mut tree, big("/b")), Some(ErrorCode::QuotaExceeded));
    assert_eq!(code(&mut tree, delete("/a")), None);
    assert_eq!(code(&mut tree, big("/b")), None);
}

#[test]
fn stored_nodes_that_are_no_tree_are_refused() {
    let node = |owner| {
        let stat = NodeStat {
            ephemeral_owner: owner,
            ..NodeStat::default()
        };
        Node::new(None, Acl::anyone(acl::ALL).into(), stat)
    };
    let orphan = vec![(Rc::from("/"), node(0)), (Rc::from("/a/b"), node(0))];
    assert_eq!(
        Tree::from_nodes(orphan, ROOM).unwrap_err().to_string(),
        "node '/a/b' has no parent"
    );
    assert!(Tree::from_nodes(vec![], ROOM).is_err());
    let below = vec![
        (Rc::from("/"), node(0)),
        (Rc::from("/a"), node(5)),
        (Rc::from("/a/b"), node(0)),
    ];
    assert!(Tree::from_nodes(below, ROOM).is_err());
}

/// A list of paths with data and owner, checked by scanning: slow and plain.
#[derive(Clone, Default)]
struct Model {
    nodes: BTreeMap<String, (i32, i64)>,
    created: BTreeMap<String, i32>,
}

impl Model {
    fn children(&self, path: &str) -> usize {
        self.nodes
            .keys()
            .filter(|node| node.len() > 1 && path::parent(node) == Some(path))
            .count()
    }

    fn step(&mut self, operation: &Operation, session: i64) -> Result<(), ErrorCode> {
        let version_of =
            |model: &Self, path: &str| model.nodes.get(path).map(|(version, _)| *version);
        match operation {
            Operation::Create {
                path,
                lifetime,
                is_sequential,
                ..
            } => {
                let parent = path::parent(path).unwrap().to_owned();
                let (_, owner) = *self.nodes.get(&parent).ok_or(ErrorCode::NoNode)?;
                let number = self.created.get(&parent).copied().unwrap_or(0);
                let path = if *is_sequential {
                    format!("{path}{number:010}")
                } else {
                    path.clone()
                };
                if self.nodes.contains_key(&path) {
                    return Err(ErrorCode::NodeExists);
                }
                if owner != 0 {
                    return Err(ErrorCode::NoChildrenForEphemerals);
                }
                self.created.insert(parent, number + 1);
                let owner = if *lifetime == Lifetime::Ephemeral {
                    session
                } else {
                    0
                };
                self.nodes.insert(path, (0, owner));
            }
            Operation::Delete { path, version } => {
                let present = version_of(self, path).ok_or(ErrorCode::NoNode)?;
                if *version != -1 && *version != present {
                    return Err(ErrorCode::BadVersion);
                }
                if self.children(path) > 0 {
                    return Err(ErrorCode::NotEmpty);
                }
                self.nodes.remove(path);
                self.created.remove(path);
            }
            Operation::SetData { path, version, .. } | Operation::Check { path, version } => {
                let present = version_of(self, path).ok_or(ErrorCode::NoNode)?;
                if *version != -1 && *version != present {
                    return Err(ErrorCode::BadVersion);
                }
                if matches!(operation, Operation::SetData { .. }) {
                    self.nodes.get_mut(path).unwrap().0 += 1;
                }
            }
            Operation::SetAcl { .. } => unreachable!("the random histories set no lists"),
        }
        Ok(())
    }
}

fn random_operation(random: &mut fastrand::Rng) -> Operation {
    let depth = random.usize(1..4);
    let path: String = (0..depth)
        .map(|_| format!("/{}", random.char('a'..='c')))
        .collect();
    let version = random.i32(-1..3);
    match random.u8(0..8) {
        0..=3 => {
            let lifetime = if random.u8(0..4) == 0 {
                Lifetime::Ephemeral
            } else {
                Lifetime::Persistent
            };
            create_as(&path, lifetime, random.u8(0..4) == 0)
        }
        4 | 5 => Operation::Delete { path, version },
        6 => set(&path, version),
        _ => Operation::Check { path, version },
    }
}

#[test]
fn random_histories_agree_with_the_model() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..30 {
        let mut tree = Tree::new(ROOM);
        let mut model = Model::default();
        model.nodes.insert("/".to_owned(), (0, 0));
        for zxid in 1..300 {
            let session = random.i64(1..4);
            if random.u8(0..20) == 0 {
                tree.end_session(session, zxid);
                let (gone, kept) = model
                    .nodes
                    .into_iter()
                    .partition(|(_, (_, owner))| *owner == session);
                model.nodes = kept;
                let gone: BTreeMap<String, (i32, i64)> = gone;
                model.created.retain(|path, _| !gone.contains_key(path));
            } else {
                let operations: Vec<_> = (0..random.usize(1..5))
                    .map(|_| random_operation(&mut random))
                    .collect();
                let before = (model.clone(), picture(&tree));
                let context = Context {
                    session,
                    ids: &[],
                    zxid,
                    time_ms: zxid,
                };
                let expected = operations
                    .iter()
                    .enumerate()
                    .try_for_each(|(index, operation)| {
                        model
                            .step(operation, session)
                            .map_err(|code| Refused { index, code })
                    });
                let applied = tree.apply(context, &operations);
                assert_eq!(
                    applied.as_ref().map(|_| ()).map_err(|refused| *refused),
                    expected,
                    "{operations:?}"
                );
                if applied.is_err() {
                    assert_eq!(picture(&tree), before.1);
                    model = before.0;
                }
            }
            compare(&tree, &model);
        }
        // What is stored gives the same tree.
        let stored = tree.nodes.iter().map(|(path, node)| {
            (
                Rc::clone(path),
                Node {
                    children: BTreeSet::new(),
                    ..node.clone()
                },
            )
        });
        assert_eq!(
            picture(&Tree::from_nodes(stored.collect(), ROOM).unwrap()),
            picture(&tree)
        );
    }
}

fn compare(tree: &Tree, model: &Model) {
    let nodes = tree
        .nodes
        .iter()
        .filter(|(path, _)| !path.starts_with("/zookeeper"));
    let nodes: BTreeMap<String, (i32, i64)> = nodes
        .map(|(path, node)| {
            (
                path.to_string(),
                (node.stat.version, node.stat.ephemeral_owner),
            )
        })
        .collect();
    assert_eq!(nodes, model.nodes);
    for (path, node) in &tree.nodes {
        let own = usize::from(&**path == "/");
        if !path.starts_with("/zookeeper") {
            assert_eq!(node.children.len(), model.children(path) + own, "{path}");
        }
    }
    let cost: usize = tree.nodes.iter().map(|(path, node)| node.cost(path)).sum();
    assert_eq!(tree.bytes, cost);
    assert_eq!(tree.descendants("/"), tree.nodes.len() - 1);
    assert_eq!(
        tree.descendants("/a"),
        tree.nodes
            .keys()
            .filter(|path| path.starts_with("/a/"))
            .count()
    );
}
