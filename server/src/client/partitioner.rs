//! Where a record goes that names no partition: by its key as Kafka's clients hash it.

/// The partition of a key: murmur2 without the sign (Kafka: `BuiltInPartitioner.java`).
#[must_use]
pub fn partition_of_key(key: &[u8], partitions: i32) -> i32 {
    let hash = i32::from_be_bytes(murmur2(key).to_be_bytes()) & i32::MAX;
    hash.checked_rem(partitions).unwrap_or(0)
}

/// MurmurHash2 with Kafka's seed (Kafka: `Utils.java`, `murmur2`).
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut word = 0;
        for (index, byte) in chunk.iter().enumerate() {
            word |= u32::from(*byte) << (8 * index);
        }
        word = word.wrapping_mul(M);
        word ^= word >> R;
        word = word.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ word;
    }
    let rest = chunks.remainder();
    for (index, byte) in rest.iter().enumerate() {
        hash ^= u32::from(*byte) << (8 * index);
    }
    if !rest.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's `UtilsTest.java`.
    #[test]
    fn murmur2_agrees_with_kafkas_vectors() {
        let cases = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
        ];
        for (text, expected) in cases {
            let hash = i32::from_be_bytes(murmur2(text.as_bytes()).to_be_bytes());
            assert_eq!(hash, expected, "{text}");
        }
        assert_eq!(partition_of_key(b"k", 0), 0);
    }
}
