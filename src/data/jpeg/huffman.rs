//! Entropy-coded coefficients: bits, Huffman codes, and blocks of 64.
//!
//! Most coefficients are found with one table look-up that yields run, value and length together.
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
    /// Returns the index after the last one. In damaged data one index may lie beyond the block.
    #[inline(always)]
    pub(super) fn ac(
        &mut self,
        table: &Table,
        mut store: impl FnMut(usize, i32),
    ) -> Result<usize, Unsupported> {
        let mut k = 1;
        loop {
            self.refill();
            // Two symbols take 54 bits at most.
            for _ in 0..2 {
                let entry = table.fast[(self.bits >> (64 - FAST_BITS)) as usize];
                let value = if entry & SYMBOL == 0 {
                    self.consume(entry & 0xff);
                    k += (entry >> 8 & 0x7f) as usize;
                    entry as i32 >> 16
                } else {
                    let (symbol, len) = symbol(entry, table, self.bits)?;
                    self.consume(len);
                    k += usize::from(symbol >> 4);
                    match u32::from(symbol & 15) {
                        0 if symbol != ZERO_RUN => return Ok(k - usize::from(symbol >> 4)),
                        0 => 0,
                        size => self.value(size),
                    }
                };
                store(k, value);
                k += 1;
                match k {
                    ..64 => {}
                    64 => return Ok(k),
                    _ => return Err(Unsupported),
                }
            }
        }
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
