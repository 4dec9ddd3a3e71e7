//! The markers of a JPEG up to its first scan: sizes, sampling and tables.
//!
//! Only what the region decoder can decode is accepted; everything else is [`Unsupported`], which
//! is no verdict on the file: another decoder may read it. ITU-T T.81, annex B.

use super::huffman::{Table, TableKind};
use super::unsupported::Unsupported;

/// One component of the picture: brightness, or one of the two colour differences.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Component {
    id: u8,
    /// Blocks of this component in a minimum coded unit, across and down; 1 or 2.
    pub(super) blocks: (usize, usize),
    pub(super) quantisation: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

impl Component {
    /// Where the blocks of this component lie in a minimum coded unit, in the order of the scan.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        let (across, down) = self.blocks;
        (0..down).flat_map(move |y| (0..across).map(move |x| (x, y)))
    }
}

/// What the scan needs. Tables are kept from one image to the next: most files share theirs.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) width: u32,
    pub(super) height: u32,
    components: [Component; 3],
    num_components: usize,
    /// Divisors by (vertical, horizontal) frequency.
    pub(super) quantisation: [[u16; 64]; 4],
    pub(super) dc: [Table; 4],
    pub(super) ac: [Table; 4],
    /// Units between restart markers; 0: none.
    pub(super) restart_interval: usize,
    seen: Seen,
}

/// What this image has defined so far; tables of earlier images do not count.
#[derive(Debug, Default)]
struct Seen {
    quantisation: [bool; 4],
    dc: [bool; 4],
    ac: [bool; 4],
    jfif: bool,
    adobe_transform: Option<u8>,
}

/// Natural order (vertical * 8 + horizontal frequency) of the coefficients as they are stored.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

impl Default for Header {
    fn default() -> Self {
        Self {
            width: 0,
            height: 0,
            components: [Component::default(); 3],
            num_components: 0,
            quantisation: [[0; 64]; 4],
            dc: std::array::from_fn(|_| Table::new(TableKind::Dc)),
            ac: std::array::from_fn(|_| Table::new(TableKind::Ac)),
            restart_interval: 0,
            seen: Seen::default(),
        }
    }
}

impl Header {
    /// Reads the markers of `bytes`; returns where the entropy-coded data of the only scan begins.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<usize, Unsupported> {
        (self.num_components, self.restart_interval) = (0, 0);
        self.seen = Seen::default();
        let mut at = 2;
        loop {
            let (marker, segment, next) = segment(bytes, at)?;
            at = next;
            match marker {
                0xc0 | 0xc1 => self.frame(segment)?,
                0xc4 => self.huffman_tables(segment)?,
                0xdb => self.quantisation_tables(segment)?,
                0xdd => self.restart_interval = usize::from(word(segment, 0)?),
                0xe0 => self.seen.jfif |= segment.starts_with(b"JFIF\0"),
                0xee if segment.starts_with(b"Adobe") => {
                    self.seen.adobe_transform = segment.get(11).copied();
                }
                0xda => {
                    self.scan(segment)?;
                    return Ok(at);
                }
                0xe1..=0xef | 0xfe => {}
                _ => return Err(Unsupported),
            }
        }
    }

    /// The components in the order of the scan.
    pub(super) fn components(&self) -> &[Component] {
        &self.components[..self.num_components]
    }

    /// Blocks of brightness in a unit: how much coarser the colour planes are.
    pub(super) fn unit_blocks(&self) -> (usize, usize) {
        self.components[0].blocks
    }

    fn frame(&mut self, segment: &[u8]) -> Result<(), Unsupported> {
        let num = usize::from(*segment.get(5).ok_or(Unsupported)?);
        let one_frame = self.num_components == 0;
        if segment[0] != 8 || !one_frame || !matches!(num, 1 | 3) || segment.len() != 6 + 3 * num {
            return Err(Unsupported);
        }
        (self.height, self.width) = (word(segment, 1)?.into(), word(segment, 3)?.into());
        self.num_components = num;
        for (component, spec) in self.components.iter_mut().zip(segment[6..].chunks_exact(3)) {
            let blocks = (usize::from(spec[1] >> 4), usize::from(spec[1] & 15));
            let quantisation = usize::from(spec[2]);
            *component = Component { id: spec[0], blocks, quantisation, dc: 0, ac: 0 };
        }
        if num == 1 {
            // The only component of a scan is not interleaved, whatever it says of its sampling.
            self.components[0].blocks = (1, 1);
        }
        let colours = &self.components[1..num];
        let usual = matches!(self.components[0].blocks, (1 | 2, 1 | 2))
            && colours.iter().all(|component| component.blocks == (1, 1))
            && self.components().iter().all(|component| component.quantisation < 4);
        if usual && self.width > 0 && self.height > 0 { Ok(()) } else { Err(Unsupported) }
    }

    fn scan(&mut self, segment: &[u8]) -> Result<(), Unsupported> {
        let num = self.num_components;
        if num == 0 || segment.len() != 4 + 2 * num || usize::from(segment[0]) != num {
            return Err(Unsupported);
        }
        for (component, spec) in
            self.components.iter_mut().zip(segment[1..1 + 2 * num].chunks_exact(2))
        {
            (component.dc, component.ac) = (usize::from(spec[1] >> 4), usize::from(spec[1] & 15));
            let Component { id, quantisation, dc, ac, .. } = *component;
            let known = id == spec[0]
                && dc < 4
                && ac < 4
                && self.seen.dc[dc]
                && self.seen.ac[ac]
                && self.seen.quantisation[quantisation];
            if !known {
                return Err(Unsupported);
            }
        }
        let whole_spectrum = segment[1 + 2 * num..] == [0, 63, 0];
        if whole_spectrum && (num == 1 || self.is_ycbcr()) { Ok(()) } else { Err(Unsupported) }
    }

    /// The colour space is not written down; these are the rules that everybody follows.
    fn is_ycbcr(&self) -> bool {
        match (self.seen.jfif, self.seen.adobe_transform) {
            (true, _) | (_, Some(1)) => true,
            (_, Some(_)) => false,
            (_, None) => [0, 1, 2].map(|i| self.components[i].id) != *b"RGB",
        }
    }

    fn quantisation_tables(&mut self, mut segment: &[u8]) -> Result<(), Unsupported> {
        while let [kind, rest @ ..] = segment {
            let (wide, slot) = (kind >> 4, usize::from(kind & 15));
            let len = if wide == 0 { 64 } else { 128 };
            if wide > 1 || slot > 3 || rest.len() < len {
                return Err(Unsupported);
            }
            let table = &mut self.quantisation[slot];
            for (k, &place) in ZIGZAG.iter().enumerate() {
                table[usize::from(place)] =
                    if wide == 0 { rest[k].into() } else { word(rest, 2 * k)? };
            }
            self.seen.quantisation[slot] = true;
            segment = &rest[len..];
        }
        Ok(())
    }

    fn huffman_tables(&mut self, mut segment: &[u8]) -> Result<(), Unsupported> {
        while let [kind, rest @ ..] = segment {
            let (class, slot) = (kind >> 4, usize::from(kind & 15));
            let counts: &[u8; 16] = rest.first_chunk().ok_or(Unsupported)?;
            let num: usize = counts.iter().map(|&count| usize::from(count)).sum();
            if class > 1 || slot > 3 || rest.len() < 16 + num {
                return Err(Unsupported);
            }
            let values = &rest[16..16 + num];
            if class == 0 {
                self.dc[slot].define(counts, values)?;
                self.seen.dc[slot] = true;
            } else {
                self.ac[slot].define(counts, values)?;
                self.seen.ac[slot] = true;
            }
            segment = &rest[16 + num..];
        }
        Ok(())
    }
}

/// The marker at or after `at`, its segment without the length, and where the next one begins.
fn segment(bytes: &[u8], mut at: usize) -> Result<(u8, &[u8], usize), Unsupported> {
    if *bytes.get(at).ok_or(Unsupported)? != 0xff {
        return Err(Unsupported);
    }
    while *bytes.get(at).ok_or(Unsupported)? == 0xff {
        at += 1;
    }
    let marker = bytes[at];
    let len = usize::from(word(bytes, at + 1)?);
    if len < 2 {
        return Err(Unsupported);
    }
    let end = at + 1 + len;
    Ok((marker, bytes.get(at + 3..end).ok_or(Unsupported)?, end))
}

fn word(bytes: &[u8], at: usize) -> Result<u16, Unsupported> {
    let pair = bytes.get(at..at + 2).ok_or(Unsupported)?;
    Ok(u16::from_be_bytes([pair[0], pair[1]]))
}
