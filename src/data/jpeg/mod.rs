//! Decodes a region of a baseline JPEG into planes, and only that.
//!
//! Entropy-coded data can only be read from its start, so every block before the region's end is
//! parsed; transforms are done inside the region, and reading stops after its last row. Nothing is
//! allocated once the buffers have grown to the largest image. What is not baseline Huffman-coded
//! grey or YCbCr is [`Unsupported`]: the caller has another decoder, and that one's verdict counts.

mod coefficients;
mod header;
mod huffman;
mod idct;
mod plane;
mod unsupported;

use std::array;
use std::ops::Range;

use coefficients::{Bits, Block, TAIL_BYTES, place};
use header::Header;
use huffman::Table;
pub(crate) use plane::{Lines, Plane};
pub(crate) use unsupported::Unsupported;

use crate::kernels::shuffle::{SIDE, Shuffle, Shuffled, Shuffling};
use crate::kernels::simd;

/// Blocks in a unit: four of brightness and one of each colour difference at most.
const MAX_BLOCKS: usize = 6;

/// Coefficients before this one, in zigzag order, are among the first four each way.
const QUARTER_END: usize = 10;

/// Keeps tables and memory from one image to the next.
#[derive(Debug, Default)]
pub(crate) struct RegionDecoder {
    header: Header,
    /// Where the scan begins in the file.
    scan: usize,
    /// The scan's data without stuffing and markers.
    data: Vec<u8>,
    /// Where each restart interval begins in `data`.
    starts: Vec<usize>,
    planes: [Plane; 3],
}

impl RegionDecoder {
    /// Reads the headers; the size in pixels.
    pub(crate) fn open(&mut self, bytes: &[u8]) -> Result<(u32, u32), Unsupported> {
        if !bytes.starts_with(&[0xff, 0xd8, 0xff]) {
            return Err(Unsupported);
        }
        self.scan = self.header.read(bytes)?;
        Ok((self.header.width, self.header.height))
    }

    /// Pixels to a sample of the colour planes, across and down: 1 or 2.
    pub(crate) fn colour_step(&self) -> (usize, usize) {
        self.header.unit_blocks()
    }

    /// Decodes what covers the given columns and rows of the image last opened, line after line:
    /// brightness, and the two colour differences unless it is grey.
    pub(crate) fn decode(
        &mut self,
        bytes: &[u8],
        columns: Range<usize>,
        rows: Range<usize>,
        lines: Lines,
    ) -> Result<&mut [Plane], Unsupported> {
        self.unstuff(&bytes[self.scan..])?;
        let (across, down) = self.header.unit_blocks();
        let units =
            |pixels: Range<usize>, side: usize| pixels.start / side..pixels.end.div_ceil(side);
        let (columns, rows) = (units(columns, 8 * across), units(rows, 8 * down));
        let num = self.header.components().len();
        for (plane, component) in self.planes.iter_mut().zip(self.header.components()) {
            let (across, down) = (8 * component.blocks.0, 8 * component.blocks.1);
            let origin = (columns.start * across, rows.start * down);
            plane.reset(lines, origin, columns.len() * across, rows.len() * down);
        }
        let mut result = Ok(());
        simd::run(Shuffled(Scan {
            header: &self.header,
            data: &self.data,
            starts: &self.starts,
            planes: &mut self.planes[..num],
            columns,
            rows,
            result: &mut result,
        }));
        result.map(|()| &mut self.planes[..num])
    }

    /// Copies the scan's data, whose end has to be there, without stuffing.
    fn unstuff(&mut self, scan: &[u8]) -> Result<(), Unsupported> {
        self.data.clear();
        self.starts.clear();
        self.starts.push(0);
        let mut at = 0;
        loop {
            let len = memchr::memchr(0xff, &scan[at..]).ok_or(Unsupported)?;
            self.data.extend_from_slice(&scan[at..at + len]);
            at += len + 1;
            match *scan.get(at).ok_or(Unsupported)? {
                0x00 => {
                    self.data.push(0xff);
                    at += 1;
                }
                0xd0..=0xd7 => {
                    self.starts.push(self.data.len());
                    at += 1;
                }
                0xff => {} // fill; the next turn meets it again
                0xd9 => break,
                _ => return Err(Unsupported),
            }
        }
        self.data.extend([0; TAIL_BYTES]);
        Ok(())
    }
}

/// The work of one image.
struct Scan<'a> {
    header: &'a Header,
    data: &'a [u8],
    starts: &'a [usize],
    planes: &'a mut [Plane],
    /// The units to keep.
    columns: Range<usize>,
    rows: Range<usize>,
    result: &'a mut Result<(), Unsupported>,
}

impl Shuffling for Scan<'_> {
    #[inline(always)]
    fn run(mut self, shuffle: impl Shuffle) {
        *self.result = self.decode(shuffle);
    }
}

impl<'a> Scan<'a> {
    #[inline(always)]
    fn decode(&mut self, shuffle: impl Shuffle) -> Result<(), Unsupported> {
        let (across, _) = self.header.unit_blocks();
        let units_across = (self.header.width as usize).div_ceil(8 * across);
        let interval = self.header.restart_interval;
        let mut bits = Bits::new(self.data);
        let mut means = [0i16; 3];
        let mut unit = 0;
        let parts = self.parts();
        let mut blocks = [[0; 256]; MAX_BLOCKS];
        for row in 0..self.rows.end {
            for column in 0..units_across {
                if interval > 0 && unit > 0 && unit % interval == 0 {
                    let start = *self.starts.get(unit / interval).ok_or(Unsupported)?;
                    bits = Bits::new(&self.data[start..]);
                    means = [0; 3];
                }
                unit += 1;
                let kept = self.rows.contains(&row) && self.columns.contains(&column);
                let at = kept.then(|| (column - self.columns.start, row - self.rows.start));
                match at {
                    Some(at) => {
                        self.unit(&mut bits, &mut means, &parts, &mut blocks, at, shuffle)?
                    }
                    None => skip(&mut bits, &mut means, &parts)?,
                }
            }
            if bits.is_past_end() {
                return Err(Unsupported); // the data ended before the picture
            }
        }
        Ok(())
    }

    /// What a unit consists of, in the order of its blocks.
    fn parts(&self) -> Parts<'a> {
        let Header { quantisation, dc, ac, .. } = self.header;
        let components = self.header.components().iter().enumerate();
        let mut parts = components.flat_map(|(index, component)| {
            component.places().map(move |(x, y)| Part {
                component: index,
                dc: &dc[component.dc],
                ac: &ac[component.ac],
                divisors: &quantisation[component.quantisation],
                at: (SIDE * x, SIDE * y),
                step: (SIDE * component.blocks.0, SIDE * component.blocks.1),
            })
        });
        array::from_fn(|_| parts.next())
    }

    /// Reads one unit and puts it at (column, row), counted in units of the region.
    #[inline(always)]
    fn unit(
        &mut self,
        bits: &mut Bits<'_>,
        means: &mut [i16; 3],
        parts: &Parts<'_>,
        blocks: &mut [Block; MAX_BLOCKS],
        (column, row): (usize, usize),
        shuffle: impl Shuffle,
    ) -> Result<(), Unsupported> {
        // All blocks are read before the first is transformed: a vector read right after the
        // single coefficients it holds were stored would wait for them.
        let mut ends = [0; MAX_BLOCKS];
        for ((part, block), end) in each(parts).zip(&mut *blocks).zip(&mut ends) {
            let mean = part.mean(bits, means)?;
            block[..64].fill(0);
            block[0] = mean;
            *end = bits.ac(part.ac, |k, value| block[place(k)] = value as i16)?;
        }
        for ((part, block), end) in each(parts).zip(&*blocks).zip(ends) {
            let samples = match end {
                1 => [[idct::flat(block[0], part.divisors[0]); SIDE]; SIDE],
                ..=QUARTER_END => idct::inverse::<4>(block, part.divisors, shuffle),
                _ => idct::inverse::<SIDE>(block, part.divisors, shuffle),
            };
            let at = (column * part.step.0 + part.at.0, row * part.step.1 + part.at.1);
            self.planes[part.component].put(at, &samples, shuffle);
        }
        Ok(())
    }
}

/// Reads past one unit.
#[inline(always)]
fn skip(bits: &mut Bits<'_>, means: &mut [i16; 3], parts: &Parts<'_>) -> Result<(), Unsupported> {
    for part in each(parts) {
        part.mean(bits, means)?;
        bits.ac(part.ac, |_, _| {})?;
    }
    Ok(())
}

/// The blocks of a unit; those it has come first.
type Parts<'a> = [Option<Part<'a>>; MAX_BLOCKS];

#[inline(always)]
fn each<'a>(parts: &'a Parts<'a>) -> impl Iterator<Item = &'a Part<'a>> {
    parts.iter().map_while(Option::as_ref)
}

/// What becomes of one block of a unit, the same in every unit.
struct Part<'a> {
    component: usize,
    dc: &'a Table,
    ac: &'a Table,
    divisors: &'a [u16; 64],
    /// Where in the unit it lies, in samples of its component.
    at: (usize, usize),
    /// How large the unit is in these.
    step: (usize, usize),
}

impl Part<'_> {
    /// Reads the block's mean; it is told as the difference from that of its component's last block.
    #[inline(always)]
    fn mean(&self, bits: &mut Bits<'_>, means: &mut [i16; 3]) -> Result<i16, Unsupported> {
        let mean = &mut means[self.component];
        *mean = mean.wrapping_add(bits.dc(self.dc)? as i16);
        Ok(*mean)
    }
}
