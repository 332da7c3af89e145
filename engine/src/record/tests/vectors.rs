//! Bytes of other writers, as hex.
//!
//! Written by kafka-python 2.0.2 (with python-snappy 0.7.3, lz4 4.4.5, xxhash): for each codec
//! `LegacyRecordBatchBuilder(magic, codec, 1 << 20)` or
//! `DefaultRecordBatchBuilder(2, codec, True, 4660, 7, 9, 1 << 20)`, then `append(0, 1500000000000,
//! b"k", b"one")`, `append(1, 1500000000001, None, b"two" * 12)`, `append(2, 1500000000002, b"k",
//! None)`, `bytes(build()).hex()`. With magic 2 the first record has the headers `[("h", b"v"), ("h",
//! None)]` and the last the timestamp 1499999999999. kafka-python leaves the offset and the timestamp
//! of a wrapper at 0, and writes Kafka's old header checksum into the LZ4 frame of magic 0.

/// Magic, codec id, bytes.
pub(super) const KAFKA_PYTHON: [(i8, u8, &str); 12] = [
    (
        0,
        0,
        "000000000000000000000012dcd921640000000000016b000000036f6e65000000000000000100000032\
         324347ec0000ffffffff0000002474776f74776f74776f74776f74776f74776f74776f74776f74776f74\
         776f74776f74776f00000000000000020000000f908204f60000000000016bffffffff",
    ),
    (
        0,
        1,
        "000000000000000000000057578b96400001ffffffff000000491f8b08001e3f036b02ff63608003a13b\
         371553c02cc66c20c19c9f970a95610462232367f7370c0cff8100c8532929cf2788a0ba9980987f4213\
         cb37a8d920230001d9bd9f77000000",
    ),
    (
        0,
        2,
        "0000000000000000000000703f906d580002ffffffff0000006282534e41505059000000000100000001\
         0000004e77000019011012dcd92164050f20016b000000036f6e65050e5c00000100000032324347ec00\
         00ffffffff0000002474776f820300000009014c020000000f908204f60000000000016bffffffff",
    ),
    (
        0,
        3,
        "00000000000000000000006e9f82589a0003ffffffff0000006004224d1860401a510000001600010051\
         12dcd921640f0091016b000000036f6e650e00ff0900000100000032324347ec0000ffffffff00000024\
         74776f03000e003b00f008000000020000000f908204f60000000000016bffffffff00000000",
    ),
    (
        1,
        0,
        "00000000000000000000001ad1403f0401000000015d3ef79800000000016b000000036f6e6500000000\
         000000010000003abedfe36601000000015d3ef79801ffffffff0000002474776f74776f74776f74776f\
         74776f74776f74776f74776f74776f74776f74776f74776f000000000000000200000017754eba2b0100\
         0000015d3ef79802000000016bffffffff",
    ),
    (
        1,
        1,
        "00000000000000000000006baa51c70401010000000000000000ffffffff000000551f8b08001e3f036b\
         02ff63608003a98b0ef62c8c400663acddf7192011c66c20c19c9f970a550192b4da77ff711a5c15e37f\
         200072544acaf30922a8294c402c5eeab74b1b6e0a13d82e9051003fb2a5428f000000",
    ),
    (
        1,
        2,
        "0000000000000000000000871ee31e5001020000000000000000ffffffff0000007182534e4150505900\
         00000001000000010000005d8f0100001901341ad1403f0401000000015d3ef798011820016b00000003\
         6f6e65010d01191c0000003abedfe366010905262c01ffffffff0000002474776f820300000009012002\
         00000017754eba2b15462402000000016bffffffff",
    ),
    (
        1,
        3,
        "000000000000000000000088b32562e701030000000000000000ffffffff0000007204224d1868408f00\
         0000000000001d5b00000016000100e01ad1403f0401000000015d3ef798180090016b000000036f6e65\
         0d00001900850000003abedfe3662600cf01ffffffff0000002474776f03000e014400b5000002000000\
         17754eba2b4600a002000000016bffffffff00000000",
    ),
    (
        2,
        0,
        "0000000000000000000000760000000002d9d6eb140010000000020000015d3ef798000000015d3ef798\
         0100000000000012340007000000090000000322000000026b066f6e6504026802760268015400020201\
         4874776f74776f74776f74776f74776f74776f74776f74776f74776f74776f74776f74776f000e000104\
         026b0100",
    ),
    (
        2,
        1,
        "00000000000000000000006a0000000002acdce3f60011000000020000015d3ef798000000015d3ef798\
         010000000000001234000700000009000000031f8b08001e3f036b02ff5362606060ca66cbcf4b6561ca\
         602a63ca600c61606262f42829cf278818f818185998b2191900c8f390cd45000000",
    ),
    (
        2,
        2,
        "00000000000000000000006f0000000002106ffefe0012000000020000015d3ef798000000015d3ef798\
         0100000000000012340007000000090000000382534e415050590000000001000000010000002a456822\
         000000026b066f6e65040268027602680154000202014874776f82030020000e000104026b0100",
    ),
    (
        2,
        3,
        "0000000000000000000000720000000002695c8cab0013000000020000015d3ef798000000015d3ef798\
         0100000000000012340007000000090000000304224d18684045000000000000008d2a000000ff0c2200\
         0000026b066f6e65040268027602680154000202014874776f03000e90000e000104026b010000000000",
    ),
];

/// Made by hand, field by field, at offset 5: one record, key `k`, null value, header `a` = `b`.
pub(super) const BY_HAND: &str = "\
    0000000000000005 0000003d 00000003 02 e664d3a7 0000 00000000 \
    000000000000000a 000000000000000a ffffffffffffffff ffff ffffffff 00000001 \
    16 00 00 00 02 6b 01 02 02 61 02 62";

/// `lz4.frame.compress(b"ringlog " * 20000, block_size=BLOCKSIZE_MAX64KB, block_linked=True,
/// content_checksum=True, block_checksum=True, store_size=True)` of python-lz4 4.4.5.
pub(super) const LZ4_LINKED: &str = "\
    04224d185c400071020000000000a9120100008f72696e676c6f67200800ffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe050676c6f67200d\
    56ebbf0a0100000f0800ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffe850676c6f67203f1e19f67b0000000f0800ffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
    ffffffffffffffffffffffffffffffffffffff5950676c6f6720324aba2d0000000020921b0e";

pub(super) fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}
