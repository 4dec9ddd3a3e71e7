//! Entropy-coded coefficients: bits, Huffman codes, and blocks of 64.
//!
//! Most coefficients are found with one table look-up that yields the runs, values and length of two.
//! ITU-T T.81, annexes C and F.

use super::header::{Unsupported, ZIGZAG};

/// Bits of the table that is looked up first.
const FAST_BITS: u32 = 10;

/// What a table codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableKind {
    /// Differences of mean brightness: a symbol is a size.
    Dc,
    /// The other coefficients: a symbol is a run of zeros and a size.
    Ac,
}

/// A Huffman table, ready to decode with.
///
/// An entry of `fast` packs, from the lowest bit: the bits to consume (8), the run of zeros (8) and
/// the value (16, signed), where code and value fit [`FAST_BITS`]; an entry with bit 15 set
/// packs the bits of the code and the symbol in place of the value; nothing but bit 15 means a
/// longer code.
#[derive(Debug)]
pub(super) struct Table {
    kind: TableKind,
    fast: Box<[u32; 1 << FAST_BITS]>,
    /// What begins with each pattern, in a table of coefficients.
    pairs: Box<[Pair; 1 << FAST_BITS]>,
    /// For each length, the first code beyond it, left-aligned in 16 bits.
    limits: [u32; 17],
    /// For each length, what to add to a code to index `values`.
    offsets: [i32; 17],
    counts: [u8; 16],
    values: [u8; 256],
    num_values: usize,
}

/// Bits of a coefficient of eight-bit samples, at most (T.81, table F.1): with a code of sixteen, 27
/// bits for a symbol.
const MAX_SIZE: u8 = 11;

/// Marks entries that hold a symbol.
const SYMBOL: u32 = 1 << 15;

impl Table {
    pub(super) fn new(kind: TableKind) -> Self {
        Self {
            kind,
            fast: Box::new([SYMBOL; 1 << FAST_BITS]),
            pairs: Box::new([Pair::NONE; 1 << FAST_BITS]),
            limits: [0; 17],
            offsets: [0; 17],
            counts: [0; 16],
            values: [0; 256],
            num_values: 0,
        }
    }

    /// Takes over a definition: how many codes there are of each length, and their symbols.
    pub(super) fn define(&mut self, counts: &[u8; 16], values: &[u8]) -> Result<(), Unsupported> {
        if *counts == self.counts && *values == self.values[..self.num_values] {
            return Ok(());
        }
        self.num_values = 0; // unusable until it is complete
        let size = |symbol: u8| match self.kind {
            TableKind::Dc => symbol,
            TableKind::Ac => symbol & 15,
        };
        if values.len() > 256 || values.iter().any(|&symbol| size(symbol) > MAX_SIZE) {
            return Err(Unsupported);
        }
        self.fast.fill(SYMBOL);
        let (mut code, mut index) = (0u32, 0usize);
        for len in 1..=16u32 {
            let count = usize::from(counts[len as usize - 1]);
            self.offsets[len as usize] = index as i32 - code as i32;
            for &symbol in &values[index..index + count] {
                self.enter(code, len, symbol);
                code += 1;
            }
            index += count;
            if code > 1 << len {
                return Err(Unsupported);
            }
            self.limits[len as usize] = code << (16 - len);
            code <<= 1;
        }
        if self.kind == TableKind::Ac {
            self.pair();
        }
        self.counts = *counts;
        self.values[..index].copy_from_slice(values);
        self.num_values = index;
        Ok(())
    }

    /// Enters all bit patterns that begin with `code`.
    fn enter(&mut self, code: u32, len: u32, symbol: u8) {
        if len > FAST_BITS || code >= 1 << len {
            return;
        }
        let free = FAST_BITS - len;
        let size = u32::from(symbol & 15);
        for tail in 0..1u32 << free {
            let pattern = (code << free | tail) as usize;
            self.fast[pattern] = if (1..=free).contains(&size) {
                let value = extend(tail >> (free - size), size) as u32;
                value << 16 | u32::from(symbol >> 4) << 8 | (len + size)
            } else {
                u32::from(symbol) << 16 | SYMBOL | len
            };
        }
    }

    /// Pairs the symbols of every pattern.
    fn pair(&mut self) {
        for (pattern, pair) in self.pairs.iter_mut().enumerate() {
            let first = self.fast[pattern];
            let rest = pattern << (first & 0xff) & ((1 << FAST_BITS) - 1);
            *pair = Pair::new(first, self.fast[rest]);
        }
    }

    /// The symbol of a code that is longer than [`FAST_BITS`].
    #[cold]
    fn long_code(&self, bits: u64) -> Result<(u8, u32), Unsupported> {
        let head = (bits >> 48) as u32;
        for len in FAST_BITS + 1..=16 {
            if head < self.limits[len as usize] {
                let index = (head >> (16 - len)) as i32 + self.offsets[len as usize];
                let symbol = self.values.get(index as usize).ok_or(Unsupported)?;
                return Ok((*symbol, len));
            }
        }
        Err(Unsupported)
    }
}

/// Two symbols of coefficients that fit [`FAST_BITS`] together, or one that does alone.
///
/// From the lowest bit: the bits to consume (8), where the coefficients belong, counted from the
/// next (8 and 8), how far that moves (8), and the coefficients (16 and 16, signed). The end of a
/// block is a zero beyond it, and moves by [`END`]. Of one symbol, the second coefficient is the
/// first. No bits: not even one symbol fits.
#[derive(Clone, Copy, Debug)]
struct Pair(u64);

/// More than any index and two runs.
const END: usize = 128;
/// From every index of a block to one beyond it, and below [`END`].
const BEYOND: u64 = 64;

impl Pair {
    const NONE: Self = Self(0);

    /// The pair of two entries of [`Table::fast`], the second of which was found with fewer bits than
    /// it may have.
    fn new(first: u32, second: u32) -> Self {
        let is_end = |entry: u32| entry & SYMBOL != 0 && entry != SYMBOL && entry >> 16 == 0;
        let (len, both) = (first & 0xff, (first & 0xff) + (second & 0xff));
        let run = |entry: u32| u64::from(entry >> 8 & 0x7f);
        let value = |entry: u32| u64::from(entry >> 16);
        let pack = |len: u32, places: [u64; 2], moves: u64, values: [u64; 2]| {
            let [a, b] = places;
            let [v, w] = values;
            Self(u64::from(len) | a << 8 | b << 16 | moves << 24 | v << 32 | w << 48)
        };
        if is_end(first) {
            return pack(len, [BEYOND; 2], END as u64, [0; 2]);
        }
        if first & SYMBOL != 0 {
            return Self::NONE;
        }
        let place = run(first);
        if both <= FAST_BITS && is_end(second) {
            pack(both, [place; 2], place + 1 + END as u64, [value(first); 2])
        } else if both <= FAST_BITS && second & SYMBOL == 0 {
            let next = place + 1 + run(second);
            pack(both, [place, next], next + 1, [value(first), value(second)])
        } else {
            pack(len, [place; 2], place + 1, [value(first); 2])
        }
    }

    #[inline(always)]
    fn len(self) -> u32 {
        (self.0 & 0xff) as u32
    }

    /// Where the coefficients belong, from the next index on.
    #[inline(always)]
    fn places(self) -> [usize; 2] {
        [(self.0 >> 8 & 0xff) as usize, (self.0 >> 16 & 0xff) as usize]
    }

    #[inline(always)]
    fn moves(self) -> usize {
        (self.0 >> 24 & 0xff) as usize
    }

    #[inline(always)]
    fn values(self) -> [i32; 2] {
        [self.0 as i64 >> 32, self.0 as i64 >> 48].map(|value| i32::from(value as i16))
    }
}

/// The number that `size` bits stand for (T.81, table F.1).
#[inline(always)]
fn extend(bits: u32, size: u32) -> i32 {
    let (bits, half) = (bits as i32, 1i32 << (size - 1));
    if bits < half { bits - 2 * half + 1 } else { bits }
}

/// Reads bits from data without stuffing, followed by at least eight more bytes.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// Left-aligned.
    bits: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8], at: usize) -> Self {
        Self { data, at, bits: 0, count: 0 }
    }

    /// Provides at least 56 bits.
    #[inline(always)]
    fn refill(&mut self) {
        // Damaged data may read on for ever; the position is checked once a row.
        let at = self.at.min(self.data.len() - 8);
        let word = self.data[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        self.bits |= word >> self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    #[inline(always)]
    fn consume(&mut self, num: u32) {
        self.bits <<= num;
        self.count -= num;
    }

    /// Takes `size` bits, at least 1, as a signed number.
    #[inline(always)]
    fn value(&mut self, size: u32) -> i32 {
        let bits = (self.bits >> (64 - size)) as u32;
        self.consume(size);
        extend(bits, size)
    }

    /// The position of the next byte that no code has used.
    pub(super) fn position(&self) -> usize {
        self.at - (self.count / 8) as usize
    }

    /// A difference of mean brightness.
    #[inline(always)]
    pub(super) fn dc(&mut self, table: &Table) -> Result<i32, Unsupported> {
        self.refill();
        let entry = table.fast[(self.bits >> (64 - FAST_BITS)) as usize];
        if entry & SYMBOL == 0 {
            self.consume(entry & 0xff);
            return Ok(entry as i32 >> 16);
        }
        let (symbol, len) = symbol(entry, table, self.bits)?;
        self.consume(len);
        Ok(if symbol == 0 { 0 } else { self.value(u32::from(symbol)) })
    }

    /// The coefficients after the first, each given to `store` as (index in zigzag order, value).
    /// Returns the index after the last one. Indices may lie beyond the block, below [`END`]; what is
    /// stored at the last of the block is final only when this returns.
    #[inline(always)]
    pub(super) fn ac(
        &mut self,
        table: &Table,
        mut store: impl FnMut(usize, i32),
    ) -> Result<usize, Unsupported> {
        let mut k = 1;
        loop {
            self.refill();
            // Two look-ups take 54 bits at most.
            for _ in 0..2 {
                let pattern = (self.bits >> (64 - FAST_BITS)) as usize;
                let pair = table.pairs[pattern];
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
                let [first, second] = pair.places();
                let values = pair.values();
                store(k + first, values[0]);
                store(k + second, values[1]);
                let next = k + pair.moves();
                if next < 64 {
                    self.consume(pair.len());
                    k = next;
                    continue;
                }
                if k + first == 63 {
                    // Nothing follows the last coefficient: the second symbol is another block's.
                    store(63, values[0]);
                    self.consume(table.fast[pattern] & 0xff);
                    return Ok(64);
                }
                self.consume(pair.len());
                return match next {
                    64 => Ok(64),
                    END.. if next - END <= 64 => Ok(next - END),
                    _ => Err(Unsupported),
                };
            }
        }
    }

    /// A coefficient whose symbol is not in the table of pairs, after a run of zeros; `None` at the
    /// end of the block.
    #[inline(always)]
    fn coefficient(&mut self, table: &Table) -> Result<(usize, Option<i32>), Unsupported> {
        let entry = table.fast[(self.bits >> (64 - FAST_BITS)) as usize];
        let (symbol, len) = symbol(entry, table, self.bits)?;
        self.consume(len);
        let run = usize::from(symbol >> 4);
        Ok(match u32::from(symbol & 15) {
            0 if symbol == ZERO_RUN => (run, Some(0)),
            0 => (run, None),
            size => (run, Some(self.value(size))),
        })
    }
}

/// Sixteen zeros; other symbols without a value end the block.
const ZERO_RUN: u8 = 0xf0;

#[inline(always)]
fn symbol(entry: u32, table: &Table, bits: u64) -> Result<(u8, u32), Unsupported> {
    if entry == SYMBOL {
        return table.long_code(bits);
    }
    Ok(((entry >> 16) as u8, entry & 0xff))
}

/// Where a coefficient at zigzag index `k` belongs, below 64; anywhere if `k` is not.
#[inline(always)]
pub(super) fn place(k: usize) -> usize {
    usize::from(PLACES[k & 127]) & 63
}

const PLACES: [u8; 128] = {
    let mut places = [63; 128];
    let mut k = 0;
    while k < 64 {
        places[k] = ZIGZAG[k];
        k += 1;
    }
    places
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    /// How many codes there are of each length in the example of T.81, table K.5.
    const COUNTS: [u8; 16] = [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125];

    /// All symbols of coefficients, small ones first.
    fn symbols() -> Vec<u8> {
        let mut symbols: Vec<u8> =
            (0..16).flat_map(|run| (1..=10).map(move |size| run << 4 | size)).collect();
        symbols.extend([0, ZERO_RUN]);
        symbols.sort_by_key(|symbol| (symbol >> 4) + 2 * (symbol & 15));
        symbols
    }

    /// Writes bits, the first at the highest place.
    #[derive(Default)]
    struct Writer {
        bits: Vec<bool>,
    }

    impl Writer {
        fn put(&mut self, bits: u32, len: u32) {
            self.bits.extend((0..len).rev().map(|at| bits >> at & 1 == 1));
        }

        /// The code of a symbol: codes count up, and go on at twice their number in the next length.
        fn symbol(&mut self, symbol: u8) {
            let wanted = symbols().iter().position(|&other| other == symbol).expect("a symbol");
            let (mut code, mut first) = (0, 0);
            for (len, count) in (1..).zip(COUNTS.map(usize::from)) {
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
            bytes.chain([0; 8]).collect()
        }
    }

    #[test]
    fn blocks_are_read_as_they_were_written() {
        let mut table = Table::new(TableKind::Ac);
        table.define(&COUNTS, &symbols()).expect("a complete table");
        for round in 0..200 {
            let key = Key::new(4, Purpose::Generate).with(round);
            // From blocks that are nearly empty to blocks without a zero, of small values to large.
            let (filled, large) = (round % 11, 1 + round % 10);
            let value = |block: u64, k: u64| {
                let [is_filled, value] = [0, 1].map(|i| key.bits(block << 8 | k << 1 | i));
                match is_filled % 10 < filled {
                    true => 1 + (value % (1 << large) - 1) as i32,
                    false => 0,
                }
            };
            let signed = |block: u64, k: u64| match key.bits(1 << 40 | block << 8 | k) % 2 {
                0 => value(block, k),
                _ => -value(block, k),
            };
            let blocks: Vec<[i32; 64]> = (0..20)
                .map(|block| {
                    std::array::from_fn(|k| if k == 0 { 0 } else { signed(block, k as u64) })
                })
                .collect();
            let mut writer = Writer::default();
            blocks.iter().for_each(|block| writer.block(block));
            let bytes = writer.bytes();
            let mut bits = Bits::new(&bytes, 0);
            for block in &blocks {
                let mut read = [0; 2 * END];
                let end = bits.ac(&table, |k, value| read[k] = value).expect("a whole block");
                assert_eq!(&read[..64], block);
                assert_eq!(end, block.iter().rposition(|&value| value != 0).map_or(1, |k| k + 1));
            }
            assert!(bits.position() <= bytes.len() - 8);
        }
    }

    #[test]
    fn symbols_that_take_more_bits_than_are_there_are_refused() {
        // One code of sixteen bits.
        let mut counts = [0; 16];
        counts[15] = 1;
        for (kind, symbol, expected) in [
            (TableKind::Dc, 11, Ok(())),
            (TableKind::Dc, 12, Err(Unsupported)),
            (TableKind::Ac, 0xfb, Ok(())),
            (TableKind::Ac, 0x0f, Err(Unsupported)),
        ] {
            let defined = Table::new(kind).define(&counts, &[symbol]);
            assert_eq!(defined, expected, "{kind:?} {symbol:#x}");
        }
    }
}
