//! What is appended, and what the file must hold in the end. The same for all runtimes.

use std::path::Path;

use ringlog_engine::record::batch::{self, ProduceLimits};
use ringlog_engine::record::{BatchBuilder, Compression};

use crate::told;

const TIMESTAMP_MS: i64 = 1_700_000_000_000;
const LIMITS: ProduceLimits = ProduceLimits {
    batch_bytes_max: 1 << 20,
    zstd_allowed: true,
};

/// A number of appends of one batch.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    /// For the table.
    pub(crate) name: &'static str,
    /// How many.
    pub(crate) appends: u64,
    /// Whether each is on stable storage before the next.
    pub(crate) is_durable: bool,
    records: usize,
    value_bytes: usize,
}

/// 15 records of 1 KiB make a batch of just below 16 KiB. 31 MB through the page cache stay below what
/// makes the kernel write back.
pub(crate) const SCENES: [Scene; 4] = [
    scene("1 record, page cache", 10_000, false, (1, 100)),
    scene("16 KiB, page cache", 2_000, false, (15, 1024)),
    scene("1 record, durable", 400, true, (1, 100)),
    scene("16 KiB, durable", 400, true, (15, 1024)),
];

const fn scene(
    name: &'static str,
    appends: u64,
    is_durable: bool,
    (records, value_bytes): (usize, usize),
) -> Scene {
    Scene {
        name,
        appends,
        is_durable,
        records,
        value_bytes,
    }
}

impl Scene {
    /// For a test: enough to cross a block of the device.
    pub(crate) fn tiny(&self) -> Self {
        Self {
            appends: if self.is_durable { 5 } else { 50 },
            ..self.clone()
        }
    }

    /// What a client sends each time.
    pub(crate) fn frames(&self) -> Frames {
        let value = vec![0xa5; self.value_bytes];
        let mut builder = BatchBuilder::new(Compression::None);
        for _ in 0..self.records {
            let appended = builder.append(TIMESTAMP_MS, Some(b"key"), Some(&value), &[]);
            appended.expect("these records are small");
        }
        Frames {
            template: builder.build().expect("it has a record").to_vec(),
            records: self.records as u64,
        }
    }

    /// What must be in the file.
    pub(crate) fn expected(&self) -> Expected {
        let frames = self.frames();
        let (mut length, mut crc) = (0, 0);
        for number in 0..self.appends {
            let frame = frames.receive(number);
            length += frame.len() as u64;
            crc = crc32c::crc32c_append(crc, &frame);
        }
        Expected { length, crc }
    }
}

/// The batch that is sent again and again.
pub(crate) struct Frames {
    template: Vec<u8>,
    records: u64,
}

impl Frames {
    /// Length of each.
    pub(crate) fn bytes(&self) -> usize {
        self.template.len()
    }

    /// Number `number`, in a buffer of its own, validated and with its offset patched in: what a
    /// broker has in hand when it writes.
    pub(crate) fn receive(&self, number: u64) -> Vec<u8> {
        let mut frame = self.template.clone();
        batch::validate(&frame, &LIMITS).expect("it was just built");
        batch::patch(&mut frame, (number * self.records).cast_signed(), 0);
        frame
    }
}

/// Length and CRC of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    length: u64,
    crc: u32,
}

impl Expected {
    /// Compares what the file holds.
    pub(crate) fn check(self, path: &Path) -> Result<(), String> {
        let bytes = std::fs::read(path).map_err(|error| told(path, &error))?;
        let found = Self {
            length: bytes.len() as u64,
            crc: crc32c::crc32c(&bytes),
        };
        if found == self {
            return Ok(());
        }
        Err(format!("the file holds {found:?}, not {self:?}"))
    }
}
