//! Huffman codes as tables to look up (ITU-T T.81, annexes C and F).
//!
//! What bits mean depends on nothing but the table, so most patterns are decoded when it is made: a
//! look-up yields runs, values and length of two coefficients at once. Where the bits come from, and what a
//! block is, is not known here.

use super::unsupported::Unsupported;

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
/// the value (16, signed), where code and value of a coefficient fit [`FAST_BITS`]; an entry with bit
/// 15 set packs the bits of the code and the symbol in place of the value; nothing but bit 15 means a
/// longer code.
#[derive(Debug)]
pub(super) struct Table {
    kind: TableKind,
    fast: Box<[u32; 1 << FAST_BITS]>,
    /// What begins with each pattern, in a table of coefficients.
    pairs: Box<Pairs>,
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
            pairs: Box::new(Pairs([Pair::NONE; 1 << FAST_BITS])),
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
        // No definition is this one's until it is complete.
        (self.counts, self.num_values) = ([u8::MAX; 16], 0);
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
            self.make_pairs();
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
            let fits = (1..=free.min(Pair::FIRST_BITS)).contains(&size);
            self.fast[pattern] = if self.kind == TableKind::Ac && fits {
                let value = extend(tail >> (free - size), size) as u32;
                value << 16 | u32::from(symbol >> 4) << 8 | (len + size)
            } else {
                u32::from(symbol) << 16 | SYMBOL | len
            };
        }
    }

    /// Pairs the first two symbols of every pattern.
    fn make_pairs(&mut self) {
        for (pattern, pair) in self.pairs.0.iter_mut().enumerate() {
            let first = self.fast[pattern];
            let rest = pattern << (first & 0xff) & ((1 << FAST_BITS) - 1);
            *pair = Pair::new(first, self.fast[rest]);
        }
    }

    #[inline(always)]
    fn entry(&self, bits: u64) -> u32 {
        self.fast[(bits >> (64 - FAST_BITS)) as usize]
    }

    /// What begins with each pattern.
    #[inline(always)]
    pub(super) fn pairs(&self) -> &Pairs {
        &self.pairs
    }

    /// The value that `bits` begin with and how many it takes, where one look-up tells.
    #[inline(always)]
    pub(super) fn value(&self, bits: u64) -> Option<(i32, u32)> {
        let entry = self.entry(bits);
        (entry & SYMBOL == 0).then_some((entry as i32 >> 16, entry & 0xff))
    }

    /// The symbol that `bits` begin with and how many its code takes, where no look-up tells its value.
    #[inline(always)]
    pub(super) fn symbol(&self, bits: u64) -> Result<(u8, u32), Unsupported> {
        match self.entry(bits) {
            SYMBOL => self.long_code(bits),
            entry => Ok(((entry >> 16) as u8, entry & 0xff)),
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

/// The [`Pair`] that each pattern of bits begins with.
#[derive(Debug)]
pub(super) struct Pairs([Pair; 1 << FAST_BITS]);

impl Pairs {
    /// The one or two coefficients that `bits`, left-aligned, begin with.
    #[inline(always)]
    pub(super) fn of(&self, bits: u64) -> Pair {
        self.0[(bits >> (64 - FAST_BITS)) as usize]
    }
}

/// Two symbols of coefficients that fit [`FAST_BITS`] together, or one that does alone.
///
/// From the lowest bit: the bits to consume (6), the run before the first coefficient (4), how far both
/// move (7), and the coefficients (9 and 6, with a sign). The second belongs before where they move; of one
/// symbol, that is the first. The end of a block moves by [`END`] more than what is before it. No bits:
/// not even one symbol fits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair(u32);

/// The end of a block: no index moves by as much otherwise.
pub(super) const END: usize = 64;

impl Pair {
    const NONE: Self = Self(0);

    /// Bits of the first coefficient, without its sign.
    const FIRST_BITS: u32 = 8;
    /// Bits of the second.
    const SECOND_BITS: u32 = 5;

    /// The pair of two entries of [`Table::fast`], the second of which was found with fewer bits than
    /// it may have.
    fn new(first: u32, second: u32) -> Self {
        let is_end = |entry: u32| entry & SYMBOL != 0 && entry != SYMBOL && entry >> 16 == 0;
        let (len, both) = (first & 0xff, (first & 0xff) + (second & 0xff));
        let zeros = |entry: u32| entry >> 8 & 15;
        let value = |entry: u32| entry as i32 >> 16;
        let pack = |len: u32, run: u32, moves: usize, [v, w]: [i32; 2]| {
            Self(
                len | run << 6 | (moves as u32) << 10 | (v as u32 & 0x1ff) << 17 | (w as u32) << 26,
            )
        };
        if is_end(first) {
            return pack(len, 0, END, [0; 2]);
        }
        if first & SYMBOL != 0 {
            return Self::NONE;
        }
        let (run, next) = (zeros(first), zeros(first) as usize + 1);
        let one = [value(first); 2];
        let fits = second & SYMBOL == 0 && value(second).unsigned_abs() < 1 << Self::SECOND_BITS;
        if both <= FAST_BITS && is_end(second) {
            pack(both, run, next + END, one)
        } else if both <= FAST_BITS && fits {
            let values = [value(first), value(second)];
            pack(both, run, next + zeros(second) as usize + 1, values)
        } else {
            pack(len, run, next, one)
        }
    }

    /// The bits of both; none if not even one symbol fits.
    #[inline(always)]
    pub(super) fn len(self) -> u32 {
        self.0 & 63
    }

    /// Zeros before the first coefficient.
    #[inline(always)]
    pub(super) fn run(self) -> usize {
        (self.0 >> 6 & 15) as usize
    }

    /// From the next index to that of the next pair.
    #[inline(always)]
    pub(super) fn moves(self) -> usize {
        (self.0 >> 10 & 127) as usize
    }

    /// The coefficients.
    #[inline(always)]
    pub(super) fn values(self) -> [i32; 2] {
        [(self.0 << 6) as i32 >> 23, self.0 as i32 >> 26]
    }
}

/// The number that `size` bits stand for (T.81, table F.1).
#[inline(always)]
pub(super) fn extend(bits: u32, size: u32) -> i32 {
    let (bits, half) = (bits as i32, (1i32 << size) >> 1);
    bits - if bits < half { 2 * half - 1 } else { 0 }
}

/// Sixteen zeros; other symbols without a value end the block.
pub(super) const ZERO_RUN: u8 = 0xf0;

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
