//! The last offset of each key, for compaction: hashes in a bounded open-addressing table.
//!
//! As Kafka's SkimpyOffsetMap it keeps a 128-bit hash of a key and no key: 24 bytes an entry. The
//! hash is salted, so that nobody can prepare keys that collide. The table is cut into many small
//! ones that grow on their own: no growth stalls the shard.

use std::hash::{DefaultHasher, Hasher};

/// Number of small tables.
const TABLES: usize = 256;
const SLOTS_MIN: usize = 4;
/// No offset: an empty slot.
const EMPTY: i64 = -1;

#[derive(Clone, Copy)]
struct Slot {
    hash: (u64, u64),
    offset: i64,
}

const EMPTY_SLOT: Slot = Slot {
    hash: (0, 0),
    offset: EMPTY,
};

#[derive(Default)]
struct Table {
    /// A power of two, or none.
    slots: Vec<Slot>,
    entries: usize,
}

impl Table {
    /// Where the hash stands, or the empty slot where it would.
    fn find(&self, hash: (u64, u64)) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = (hash.0 >> 8) as usize & mask;
        loop {
            let slot = &self.slots[at];
            if slot.offset == EMPTY || slot.hash == hash {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// Whether one more entry leaves enough empty slots for short searches.
    fn has_room(&self) -> bool {
        (self.entries + 1) * 8 <= self.slots.len() * 7
    }

    fn grow(&mut self, slots: usize) {
        let before = std::mem::replace(&mut self.slots, vec![EMPTY_SLOT; slots]);
        for slot in before.into_iter().filter(|slot| slot.offset != EMPTY) {
            if let Some(at) = self.find(slot.hash) {
                self.slots[at] = slot;
            }
        }
    }
}

/// The last offset of each key.
pub(super) struct KeyMap {
    tables: Vec<Table>,
    salt: u64,
    slots: usize,
    slots_max: usize,
    entries: usize,
    entries_max: usize,
    /// Up to here all records are in it.
    latest_offset: i64,
}

impl KeyMap {
    /// An empty map of at most `bytes_max`, filled up to `load_factor` (Kafka's
    /// `log.cleaner.dedupe.buffer.size` and `log.cleaner.io.buffer.load.factor`).
    pub(super) fn new(bytes_max: u64, load_factor: f64, salt: u64) -> KeyMap {
        let slots_max = usize::try_from(bytes_max).unwrap_or(usize::MAX) / size_of::<Slot>();
        KeyMap {
            tables: (0..TABLES).map(|_| Table::default()).collect(),
            salt,
            slots: 0,
            slots_max,
            entries: 0,
            entries_max: (slots_max as f64 * load_factor.clamp(0.0, 1.0)) as usize,
            latest_offset: -1,
        }
    }

    /// Notes that `key` stands at `offset`, which is above all offsets before. `false` if the map is
    /// full: then nothing has changed.
    pub(super) fn put(&mut self, key: &[u8], offset: i64) -> bool {
        let hash = self.hash(key);
        let table = &mut self.tables[hash.0 as usize % TABLES];
        if let Some(at) = table.find(hash)
            && table.slots[at].offset != EMPTY
        {
            table.slots[at].offset = offset;
            return true;
        }
        if self.entries >= self.entries_max {
            return false;
        }
        if !table.has_room() {
            let more = table.slots.len().max(SLOTS_MIN);
            if self.slots + more > self.slots_max {
                return false;
            }
            // From none to the fewest, later twice as many.
            table.grow(table.slots.len() + more);
            self.slots += more;
        }
        let Some(at) = table.find(hash) else {
            return false;
        };
        table.slots[at] = Slot { hash, offset };
        table.entries += 1;
        self.entries += 1;
        true
    }

    /// The last offset of `key`, if it is known.
    pub(super) fn get(&self, key: &[u8]) -> Option<i64> {
        let hash = self.hash(key);
        let table = &self.tables[hash.0 as usize % TABLES];
        let slot = table.slots[table.find(hash)?];
        (slot.offset != EMPTY).then_some(slot.offset)
    }

    /// Up to here all records are in it; -1 for none.
    pub(super) fn latest_offset(&self) -> i64 {
        self.latest_offset
    }

    /// All records up to `offset` are in it.
    pub(super) fn reached(&mut self, offset: i64) {
        self.latest_offset = self.latest_offset.max(offset);
    }

    /// How many keys it knows.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries
    }

    fn hash(&self, key: &[u8]) -> (u64, u64) {
        let half = |which: u8| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(self.salt);
            hasher.write_u8(which);
            hasher.write(key);
            hasher.finish()
        };
        (half(0), half(1))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_knows_the_last_offset_of_each_key() {
        let mut map = KeyMap::new(1 << 20, 0.9, 7);
        let mut model: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
        let mut random = crate::log::tests::Random(0x5eed);
        for offset in 0..40_000 {
            let key = (random.below(9000) as u32).to_be_bytes().to_vec();
            assert!(map.put(&key, offset));
            model.insert(key, offset);
        }
        assert_eq!(map.len(), model.len());
        for (key, offset) in model {
            assert_eq!(map.get(&key), Some(offset));
        }
        assert_eq!(map.get(b"another"), None);
        assert_eq!(map.get(b""), None);
    }

    #[test]
    fn it_stays_within_its_memory_and_says_when_it_is_full() {
        for bytes in [0_u64, 100, 10_000, 1_000_000] {
            let mut map = KeyMap::new(bytes, 0.9, 1);
            let slots_max = usize::try_from(bytes).unwrap() / 24;
            let mut taken = 0;
            for key in 0..100_000_u32 {
                if map.put(&key.to_be_bytes(), i64::from(key)) {
                    taken += 1;
                }
            }
            assert_eq!(map.len(), taken);
            let slots: usize = map.tables.iter().map(|table| table.slots.len()).sum();
            assert!(slots <= slots_max, "{slots} slots, {slots_max} are allowed");
            assert!(taken < 100_000);
            if bytes == 1_000_000 {
                // Small tables fill unevenly, and each one doubles.
                assert!(taken * 24 * 3 > 1_000_000, "{taken} keys in {bytes} bytes");
                // A known key is taken though it is full.
                assert!(map.put(&0_u32.to_be_bytes(), 1_000_000));
                assert_eq!(map.get(&0_u32.to_be_bytes()), Some(1_000_000));
            }
        }
    }
}
