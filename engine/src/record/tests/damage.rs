//! Damaged bytes end as errors: every prefix, every flipped byte, and random mutations.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::*;

const FUZZ_ROUNDS: usize = 10_000;

/// xorshift64*: enough to damage bytes.
pub(super) struct Random(u64);

impl Random {
    /// A new seed each run, printed so that a failure can be repeated (`RECORD_SEED=<n>`).
    pub(super) fn from_seed_printed(name: &str) -> Self {
        let seed = std::env::var("RECORD_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| RandomState::new().build_hasher().finish() | 1);
        eprintln!("{name}: RECORD_SEED={seed}");
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// One to four overwritten, cut, doubled or spliced places.
    fn mutate(&mut self, original: &[u8]) -> Vec<u8> {
        let mut bytes = original.to_vec();
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                return bytes;
            }
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes[at] = self.next() as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes[at] = [0, 0x7f, 0x80, 0xff][self.below(4)],
                3 => bytes.truncate(at),
                4 => {
                    let length = self.below(9);
                    let noise = self.bytes(length);
                    bytes.splice(at..at, noise);
                }
                _ => {
                    let from = self.below(bytes.len());
                    let tail = bytes[from..].to_vec();
                    bytes.truncate(at);
                    bytes.extend(tail);
                }
            }
        }
        bytes
    }
}

/// One of each kind of bytes that this module reads.
fn specimens() -> Vec<Vec<u8>> {
    let mut specimens: Vec<_> = KAFKA_PYTHON.iter().map(|(_, _, hex)| unhex(hex)).collect();
    specimens.push(unhex(BY_HAND));
    for codec in Compression::ALL {
        specimens.push(sample(BatchBuilder::new(codec).producer(1, 0, 0), 7).to_vec());
    }
    specimens
}

/// Sets the CRC right where there is one, so that damage reaches what lies behind it.
fn heal(bytes: &mut [u8]) {
    if bytes.len() <= 21 {
        return;
    }
    let crc = if bytes[16] == 2 {
        crc32c(&bytes[21..])
    } else {
        0
    };
    match bytes[16] {
        2 => bytes[17..21].copy_from_slice(&crc.to_be_bytes()),
        _ => {
            let crc = crc_fast::crc32_iso_hdlc(&bytes[16..]);
            bytes[12..16].copy_from_slice(&crc.to_be_bytes());
        }
    }
}

/// Everything that reads bytes; only panics and broken limits count.
fn read_every_way(bytes: &[u8]) {
    let limits = ConversionLimits {
        bytes_max: 10_000,
        decompressed_bytes_max: 10_000,
    };
    let _ = BatchHeader::parse(bytes);
    let _ = validate(bytes, &PRODUCE);
    for batch in iterate(bytes).flatten() {
        assert!(batch.bytes.len() <= bytes.len());
        let _ = batch.header.check_crc(batch.bytes);
        if let Ok(reader) = BatchReader::open(batch.bytes, 10_000) {
            let _ = reader.records().filter(Result::is_ok).count();
        }
    }
    for batch in up_convert(bytes, &limits).unwrap_or_default() {
        validate(&batch, &PRODUCE).unwrap();
        assert!(batch.len() <= limits.bytes_max);
    }
    for to_magic in [0, 1] {
        if let Ok(down) = down_convert(bytes, to_magic, 1, &limits) {
            assert!(down.messages.len() <= 100_000);
            let _ = read_all(&down.messages);
        }
    }
}

#[test]
fn every_prefix_and_every_flip() {
    for original in specimens() {
        read_every_way(&original);
        for at in 0..original.len() {
            read_every_way(&original[..at]);
            for mask in [0x01, 0x80, 0xff] {
                let mut bytes = original.clone();
                bytes[at] ^= mask;
                read_every_way(&bytes);
                heal(&mut bytes);
                read_every_way(&bytes);
            }
        }
    }
}

#[test]
fn every_flip_under_the_crc_is_noticed() {
    let original = sample(BatchBuilder::new(Compression::Gzip), 7);
    for at in (0..original.len()).filter(|at| !(0..8).contains(at) && !(12..16).contains(at)) {
        let mut bytes = original.clone();
        bytes[at] ^= 0x10;
        assert!(validate(&bytes, &PRODUCE).is_err(), "byte {at}");
    }
}

#[test]
fn random_mutations() {
    let mut random = Random::from_seed_printed("random_mutations");
    let specimens = specimens();
    for round in 0..FUZZ_ROUNDS * 2 {
        let original = &specimens[round % specimens.len()];
        let mut bytes = random.mutate(original);
        if round % 4 != 0 {
            heal(&mut bytes);
        }
        read_every_way(&bytes);
    }
}

#[test]
fn random_mutations_of_compressed_bytes() {
    let mut random = Random::from_seed_printed("random_mutations_of_compressed_bytes");
    let text = b"ringlog and ringlog and ".repeat(40);
    let noise = random.bytes(500);
    let plain = [&text[..], &noise].concat();
    for codec in Compression::ALL {
        let mut original = Vec::new();
        compress(codec, &plain, &mut original).unwrap();
        for _ in 0..FUZZ_ROUNDS {
            let bytes = random.mutate(&original);
            let limit = random.below(4000);
            if let Ok(out) = decompress(codec, &bytes, limit) {
                assert!(out.len() <= limit);
            }
        }
    }
}

#[test]
fn random_bytes() {
    let mut random = Random::from_seed_printed("random_bytes");
    for _ in 0..FUZZ_ROUNDS {
        let length = random.below(200);
        let mut bytes = random.bytes(length);
        if length > 17 {
            bytes[16] = (random.next() % 3) as u8;
            bytes[8..12].copy_from_slice(&(length as i32 - 12).to_be_bytes());
            heal(&mut bytes);
        }
        read_every_way(&bytes);
        for codec in Compression::ALL {
            let _ = decompress(codec, &bytes, 1000);
        }
    }
}
