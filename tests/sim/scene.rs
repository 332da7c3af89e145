//! What all clients of a history share: the world, the ledger, the gate, the log of what happened.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ringlog_tests::random::Random;

use crate::connection::{Connection, Lost};
use crate::crowd::Crowd;
use crate::ledger::{Existence, Ledger};

/// Lines that a failing history shows.
const TAIL_LINES: usize = 60;
/// After this time without an answer a client gives up.
const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    /// The running history of this thread, for the broker's own log lines.
    static STORY: RefCell<Story> = RefCell::default();
}

/// What happened, line by line.
#[derive(Default)]
struct Story {
    /// The first line.
    head: String,
    lines: VecDeque<String>,
    is_shown: bool,
    hash: u64,
    time: String,
}

/// Begins the story of a seed; `is_shown` prints it as it goes.
pub(crate) fn begin_story(is_shown: bool) {
    STORY.with_borrow_mut(|story| {
        *story = Story {
            is_shown,
            ..Story::default()
        };
    });
}

/// Adds a line.
pub(crate) fn tell(line: &str) {
    STORY.with_borrow_mut(|story| {
        let line = format!("{} {line}", story.time);
        for byte in line.as_bytes() {
            story.hash = (story.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        if story.is_shown {
            eprintln!("{line}");
        }
        if story.head.is_empty() {
            story.head.clone_from(&line);
        }
        if story.lines.len() == TAIL_LINES {
            story.lines.pop_front();
        }
        story.lines.push_back(line);
    });
}

/// The first and the last lines.
pub(crate) fn tail_of_story() -> Vec<String> {
    STORY.with_borrow(|story| {
        [&story.head]
            .into_iter()
            .chain(&story.lines)
            .cloned()
            .collect()
    })
}

/// The hash of all lines.
pub(crate) fn hash_of_story() -> u64 {
    STORY.with_borrow(|story| story.hash)
}

/// What the topics are that no client deletes.
pub(crate) const STABLE_TOPICS: [(&str, i32); 3] =
    [("alpha", 3), ("beta", 1), (COMPACTED_TOPIC, 1)];
/// The one of them that is compacted.
pub(crate) const COMPACTED_TOPIC: &str = "delta";
/// The topic that comes and goes.
pub(crate) const FLEETING_TOPIC: &str = "gamma";

/// The common ground of the clients.
pub(crate) struct Scene {
    /// Runs the clients.
    pub(crate) crowd: Crowd,
    /// The books.
    pub(crate) ledger: RefCell<Ledger>,
    /// Where the broker listens.
    pub(crate) address: SocketAddr,
    /// Whether clients may act: the books of this generation are settled.
    pub(crate) gate: Cell<bool>,
    /// Whether clients shall end.
    pub(crate) quit: Cell<bool>,
    /// Whether the disk may fail in this generation, or the broker is ending.
    pub(crate) is_troubled: Cell<bool>,
    /// The broker's process is to stand still for so long.
    pub(crate) pause: Cell<Duration>,
    /// How far the wall clock has jumped, in milliseconds.
    jumped_ms: Cell<i64>,
    /// Number of the running generation.
    pub(crate) generation: Cell<u32>,
    /// Lanes given out.
    lanes: Cell<u64>,
}

impl Scene {
    /// A scene without a broker yet.
    pub(crate) fn new(crowd: Crowd, ledger: Ledger, address: SocketAddr) -> Rc<Scene> {
        Rc::new(Scene {
            crowd,
            ledger: RefCell::new(ledger),
            address,
            gate: Cell::new(false),
            quit: Cell::new(false),
            is_troubled: Cell::new(false),
            pause: Cell::default(),
            jumped_ms: Cell::default(),
            generation: Cell::new(0),
            lanes: Cell::new(0),
        })
    }

    /// Adds a line to the story.
    pub(crate) fn tell(&self, line: &str) {
        let micros = self.crowd.now().0 / 1000 - 1_000_000_000;
        STORY.with_borrow_mut(|story| {
            story.time = format!("{:>6}.{:03}ms", micros / 1000, micros % 1000);
        });
        tell(line);
    }

    /// A lane that no record has yet.
    pub(crate) fn new_lane(&self) -> u64 {
        self.lanes.set(self.lanes.get() + 1);
        self.lanes.get()
    }

    /// Waits until clients may act; false if they shall end.
    pub(crate) async fn is_open(&self) -> bool {
        self.is_open_with(STABLE_TOPICS.len()).await
    }

    /// The same for a client that needs only the first `topics` topics.
    pub(crate) async fn is_open_with(&self, topics: usize) -> bool {
        loop {
            if self.quit.get() {
                return false;
            }
            if self.gate.get() && self.are_there(topics) {
                return true;
            }
            self.pause(1).await;
        }
    }

    fn are_there(&self, topics: usize) -> bool {
        let ledger = self.ledger.borrow();
        (0..topics).all(|topic| ledger.topic(topic).existence == Existence::Sure)
    }

    /// Sleeps.
    pub(crate) async fn pause(&self, milliseconds: u64) {
        self.crowd.sleep(Duration::from_millis(milliseconds)).await;
    }

    /// Lets the wall clock jump to `milliseconds` from where it should be.
    pub(crate) fn set_wall(&self, milliseconds: i64) {
        let before = self.jumped_ms.replace(milliseconds);
        self.crowd.world().jump_wall(milliseconds - before);
    }

    /// Connects to the broker.
    pub(crate) fn connect(&self) -> Result<Connection, Lost> {
        Connection::open(&self.crowd, self.address, PATIENCE)
    }

    /// An error that only a failing disk or a broker on its way out explains.
    pub(crate) fn tolerate(&self, what: &str, code: i16) {
        self.ledger.borrow_mut().count("errors tolerated", 1);
        assert!(
            self.is_troubled.get() || !self.gate.get(),
            "{what}: error {code}, though nothing was wrong with the disk"
        );
    }
}

/// One of several, by chance.
pub(crate) fn pick<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    let index = random.below(choices.len() as u64);
    choices[usize::try_from(index).expect("below a length")]
}

/// Once in `n` times.
pub(crate) fn one_in(random: &mut Random, n: u64) -> bool {
    random.below(n) == 0
}

/// A number from `first` to `last`.
pub(crate) fn within(random: &mut Random, first: u64, last: u64) -> u64 {
    first + random.below(last - first + 1)
}

/// A place in memory.
pub(crate) fn size(number: u64) -> usize {
    usize::try_from(number).expect("a small number")
}
