//! Entropy-coded coefficients: bits, and blocks of 64 (ITU-T T.81, annex F).

use super::header::ZIGZAG;
use super::huffman::{END, Table, ZERO_RUN, extend};
use super::unsupported::Unsupported;

/// What data without stuffing is followed by: more zeros than the seven bytes that may be buffered and
/// the eight that are loaded at a time, so that whole data never meets the end of the slice.
pub(super) const TAIL_BYTES: usize = 16;

/// Reads bits from data without stuffing, followed by [`TAIL_BYTES`] zeros.
pub(super) struct Bits<'a> {
    /// What no bits were taken from.
    rest: &'a [u8],
    /// Left-aligned.
    bits: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { rest: data, bits: 0, count: 0 }
    }

    /// Provides at least 56 bits.
    #[inline(always)]
    fn refill(&mut self) {
        // Damaged data may read on for ever, and finds zeros; whether it has is checked once a row.
        if let Some(bytes) = self.rest.first_chunk() {
            self.bits |= u64::from_be_bytes(*bytes) >> (self.count & 63);
            self.rest = &self.rest[(!self.count >> 3 & 7) as usize..];
        }
        self.count |= 56;
    }

    #[inline(always)]
    fn consume(&mut self, num: u32) {
        self.bits <<= num;
        self.count -= num;
    }

    /// Takes `size` bits as a signed number; no bits stand for zero.
    #[inline(always)]
    fn value(&mut self, size: u32) -> i32 {
        let bits = (self.bits >> 1 >> (63 - size)) as u32;
        self.consume(size);
        extend(bits, size)
    }

    /// Whether bits behind the data were used.
    pub(super) fn is_past_end(&self) -> bool {
        let num_unused = self.rest.len() + (self.count / 8) as usize;
        num_unused < TAIL_BYTES
    }

    /// A difference of mean brightness.
    #[inline(always)]
    pub(super) fn dc(&mut self, table: &Table) -> Result<i32, Unsupported> {
        self.refill();
        let (size, len) = table.symbol(self.bits)?;
        self.consume(len);
        Ok(self.value(u32::from(size)))
    }

    /// The coefficients after the first, each given to `store` as (index in zigzag order, value); of
    /// damaged data, indices may lie beyond the block, below 256. Returns the index after the last one.
    #[inline(always)]
    pub(super) fn ac(
        &mut self,
        table: &Table,
        mut store: impl FnMut(usize, i32),
    ) -> Result<usize, Unsupported> {
        let pairs = table.pairs();
        let mut k = 1;
        loop {
            self.refill();
            // Two look-ups take 54 bits at most.
            for _ in 0..2 {
                let pair = pairs.of(self.bits);
                if pair.len() == 0 {
                    let (run, value) = self.coefficient(table)?;
                    let Some(value) = value else { return Ok(k) };
                    store(k + run, value);
                    k += run + 1;
                    match k {
                        ..64 => continue,
                        64 => return Ok(k),
                        _ => return Err(Unsupported),
                    }
                }
                let values = pair.values();
                let (first, next) = (k + pair.run(), k + pair.moves());
                // Of one symbol, both are at one place.
                store(next - 1, values[1]);
                store(first, values[0]);
                if next < 64 {
                    self.consume(pair.len());
                    k = next;
                    continue;
                }
                let moves = pair.moves();
                if first == 63 && moves != END {
                    // Nothing follows the last coefficient: a second symbol is another block's.
                    self.consume(table.value(self.bits).map_or(0, |(_, len)| len));
                    return Ok(64);
                }
                self.consume(pair.len());
                return match moves {
                    END.. if next - END <= 64 => Ok(next - END),
                    ..END if next == 64 => Ok(64),
                    _ => Err(Unsupported),
                };
            }
        }
    }

    /// A coefficient whose symbol is not in the table of pairs, after a run of zeros; `None` at the
    /// end of the block.
    #[inline(always)]
    fn coefficient(&mut self, table: &Table) -> Result<(usize, Option<i32>), Unsupported> {
        let (symbol, len) = table.symbol(self.bits)?;
        self.consume(len);
        let run = usize::from(symbol >> 4);
        Ok(match u32::from(symbol & 15) {
            0 if symbol == ZERO_RUN => (run, Some(0)),
            0 => (run, None),
            size => (run, Some(self.value(size))),
        })
    }
}

/// Coefficients by (vertical, horizontal) frequency, and behind them what lies beyond the block: all
/// that a place, in eight bits, can be.
pub(super) type Block = [i16; 256];

/// Where a coefficient at zigzag index `k` belongs in a [`Block`].
#[inline(always)]
pub(super) fn place(k: usize) -> usize {
    usize::from(PLACES[k & 255])
}

const PLACES: [u8; 256] = {
    let mut places = [64; 256];
    let mut k = 0;
    while k < 64 {
        places[k] = ZIGZAG[k];
        k += 1;
    }
    places
};

#[cfg(test)]
mod tests {
    use super::super::huffman::TableKind;
    use super::*;
    use crate::random::{Key, Purpose};

    /// How many codes there are of each length, and their symbols.
    struct Code {
        counts: [u8; 16],
        symbols: Vec<u8>,
    }

    impl Code {
        /// As in the example of T.81, table K.5: small symbols have short codes.
        fn usual() -> Self {
            let counts = [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125];
            let mut symbols: Vec<u8> =
                (0..16).flat_map(|run| (1..=10).map(move |size| run << 4 | size)).collect();
            symbols.extend([0, ZERO_RUN]);
            symbols.sort_by_key(|symbol| (symbol >> 4) + 2 * (symbol & 15));
            Self { counts, symbols }
        }

        /// The shortest codes there can be for these symbols, nine bits and more for all others.
        fn short(first: &[u8]) -> Self {
            let mut symbols = Self::usual().symbols;
            symbols.sort_by_key(|symbol| !first.contains(symbol));
            symbols[..first.len()].copy_from_slice(first);
            let mut counts = [0; 16];
            counts[..first.len()].fill(1);
            counts[7 + first.len()] = (symbols.len() - first.len()) as u8;
            Self { counts, symbols }
        }
    }

    /// Writes bits, the first at the highest place.
    struct Writer<'a> {
        code: &'a Code,
        bits: Vec<bool>,
    }

    impl Writer<'_> {
        fn put(&mut self, bits: u32, len: u32) {
            self.bits.extend((0..len).rev().map(|at| bits >> at & 1 == 1));
        }

        /// The code of a symbol: codes count up, and go on at twice their number in the next length.
        fn symbol(&mut self, symbol: u8) {
            let Code { counts, symbols } = self.code;
            let wanted = symbols.iter().position(|&other| other == symbol).expect("a symbol");
            let (mut code, mut first) = (0, 0);
            for (len, count) in (1..).zip(counts.map(usize::from)) {
                if wanted < first + count {
                    return self.put(code + (wanted - first) as u32, len);
                }
                (code, first) = ((code + count as u32) << 1, first + count);
            }
        }

        /// The coefficients after the first, as T.81, F.1.2.2 has it.
        fn block(&mut self, block: &[i32; 64]) {
            let mut run = 0;
            for &value in &block[1..] {
                if value == 0 {
                    run += 1;
                    continue;
                }
                for _ in 0..run / 16 {
                    self.symbol(ZERO_RUN);
                }
                let size = 32 - value.unsigned_abs().leading_zeros();
                self.symbol((run % 16) << 4 | size as u8);
                let bits = if value < 0 { value - 1 } else { value };
                self.put(bits as u32 & ((1 << size) - 1), size);
                run = 0;
            }
            if run > 0 {
                self.symbol(0);
            }
        }

        fn bytes(self) -> Vec<u8> {
            let byte =
                |bits: &[bool]| (0..).zip(bits).map(|(at, &bit)| u8::from(bit) << (7 - at)).sum();
            let bytes = self.bits.chunks(8).map(byte);
            bytes.chain([0; TAIL_BYTES]).collect()
        }
    }

    /// Twenty blocks: in round after round from nearly empty to without a zero, of small values to large.
    fn blocks(round: u64) -> Vec<[i32; 64]> {
        let key = Key::new(4, Purpose::Generate).with(round);
        let (filled, large) = (round % 11, 1 + round % 10);
        let value = |block: u64, k: u64| {
            let [is_filled, value, sign] = [0, 1, 2].map(|i| key.bits(block << 8 | k << 2 | i));
            let value =
                if is_filled % 10 < filled { 1 + (value % (1 << large) - 1) as i32 } else { 0 };
            if sign % 2 == 0 { value } else { -value }
        };
        let block =
            |block| std::array::from_fn(|k| if k == 0 { 0 } else { value(block, k as u64) });
        (0..20).map(block).collect()
    }

    #[test]
    fn blocks_are_read_as_they_were_written() {
        // Short codes leave room for values that are larger than usual in a look-up.
        for code in [Code::usual(), Code::short(&[0x09]), Code::short(&[0x01, 0x06])] {
            let mut table = Table::new(TableKind::Ac);
            table.define(&code.counts, &code.symbols).expect("a complete table");
            for blocks in (0..200).map(blocks) {
                let mut writer = Writer { code: &code, bits: Vec::new() };
                blocks.iter().for_each(|block| writer.block(block));
                let bytes = writer.bytes();
                let mut bits = Bits::new(&bytes);
                for block in &blocks {
                    let mut read = [0; 256];
                    let end = bits.ac(&table, |k, value| read[k] = value).expect("a whole block");
                    assert_eq!(&read[..64], block);
                    let last = block.iter().rposition(|&value| value != 0);
                    assert_eq!(end, last.map_or(1, |k| k + 1));
                }
                assert!(!bits.is_past_end());
            }
        }
    }

    #[test]
    fn a_definition_that_was_refused_is_not_taken_for_the_next() {
        let mut table = Table::new(TableKind::Ac);
        let mut too_many = [0; 16];
        too_many[0] = 3;
        table.define(&too_many, &[1, 2, 3]).expect_err("two codes have one bit");
        table.define(&[0; 16], &[]).expect("no codes");
        assert!(table.symbol(0).is_err());
    }
}
