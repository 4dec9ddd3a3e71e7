//! The table of ImageNet's devkit, `meta.mat`, which says which class each ILSVRC id is.
//!
//! Only what that file uses of MATLAB's version 5 format is understood: a struct array `synsets`
//! with the fields `ILSVRC2012_ID` and `WNID`, compressed or not, little-endian. Nothing nests, so
//! nothing recurses, and what is decompressed is bounded.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::ZlibDecoder;

/// The devkit's table has 2 MB.
const MAX_INFLATED_BYTES: u64 = 64 << 20;
const HEADER_BYTES: usize = 128;

// Types of elements.
const INT32: u32 = 5;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
// Classes of arrays.
const STRUCT: u8 = 2;

/// The WordNet id of each ILSVRC id.
///
/// # Errors
/// In words, without the file's name.
pub(super) fn wnids(file: &[u8]) -> Result<HashMap<u32, String>, String> {
    match file.get(124..HEADER_BYTES) {
        Some([0x00, 0x01, b'I', b'M']) => {}
        _ => return Err("is not a MATLAB 5 file; take the meta.mat of the devkit".into()),
    }
    let mut top = Elements(&file[HEADER_BYTES..]);
    while let Some((kind, data)) = top.next()? {
        let inflated;
        let matrix = match kind {
            COMPRESSED => {
                inflated = inflate(data)?;
                match Elements(&inflated).next()? {
                    Some((MATRIX, data)) => data,
                    _ => continue,
                }
            }
            MATRIX => data,
            _ => continue,
        };
        if let Some(table) = synsets(matrix)? {
            return Ok(table);
        }
    }
    Err("has no struct `synsets`; take the meta.mat of the devkit".into())
}

fn inflate(data: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut limited = ZlibDecoder::new(data).take(MAX_INFLATED_BYTES + 1);
    limited.read_to_end(&mut bytes).map_err(|error| format!("cannot be decompressed: {error}"))?;
    if bytes.len() as u64 > MAX_INFLATED_BYTES {
        return Err(format!("decompresses to more than {} MiB", MAX_INFLATED_BYTES >> 20));
    }
    Ok(bytes)
}

/// The table, if this array is it.
fn synsets(matrix: &[u8]) -> Result<Option<HashMap<u32, String>>, String> {
    let mut parts = Elements(matrix);
    let array = Array::read(&mut parts)?;
    if (array.class, array.name) != (STRUCT, b"synsets") {
        return Ok(None);
    }
    let name_bytes = match parts.expect()? {
        (INT32, data) if data.len() == 4 => u32_at(data, 0) as usize,
        _ => return Err(DAMAGED.into()),
    };
    let (_, names) = parts.expect()?;
    if name_bytes == 0 || names.is_empty() || names.len() % name_bytes != 0 {
        return Err(DAMAGED.into());
    }
    let trimmed = |name: &[u8]| name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    let fields: Vec<&[u8]> = names.chunks(name_bytes).map(|name| &name[..trimmed(name)]).collect();
    let mut table = HashMap::new();
    while !parts.0.is_empty() {
        let (mut id, mut wnid) = (None, None);
        for field in &fields {
            let (_, value) = parts.expect()?;
            match *field {
                b"ILSVRC2012_ID" => id = Some(number(value)?),
                b"WNID" => wnid = Some(text(value)?),
                _ => {}
            }
        }
        match (id, wnid) {
            (Some(id), Some(wnid)) => drop(table.insert(id, wnid)),
            _ => return Err("has no fields ILSVRC2012_ID and WNID in `synsets`".into()),
        }
    }
    Ok(Some(table))
}

const DAMAGED: &str = "is damaged; fetch it again";

/// The elements of a file or an array: (type, bytes).
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    fn next(&mut self) -> Result<Option<(u32, &'a [u8])>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        if self.0.len() < 8 {
            return Err(DAMAGED.into());
        }
        let tag = u32_at(self.0, 0);
        let (kind, data, used) = if tag >> 16 != 0 {
            // Up to four bytes, in the tag itself.
            let len = (tag >> 16) as usize;
            (tag & 0xffff, self.0.get(4..4 + len).filter(|_| len <= 4), 8)
        } else {
            let len = u32_at(self.0, 4) as usize;
            let used = if tag == COMPRESSED { 8 + len } else { 8 + len.next_multiple_of(8) };
            (tag, self.0.get(8..8 + len), used)
        };
        let data = data.ok_or(DAMAGED)?;
        self.0 = self.0.get(used..).unwrap_or_default();
        Ok(Some((kind, data)))
    }

    fn expect(&mut self) -> Result<(u32, &'a [u8]), String> {
        self.next()?.ok_or_else(|| DAMAGED.into())
    }
}

/// What every array starts with.
struct Array<'a> {
    class: u8,
    name: &'a [u8],
}

impl<'a> Array<'a> {
    fn read(parts: &mut Elements<'a>) -> Result<Self, String> {
        let (_, flags) = parts.expect()?;
        let (_, _dimensions) = parts.expect()?;
        let (_, name) = parts.expect()?;
        Ok(Self { class: *flags.first().ok_or(DAMAGED)?, name })
    }
}

/// The bytes of a small array: (type, data).
fn content(matrix: &[u8]) -> Result<(u32, &[u8]), String> {
    let mut parts = Elements(matrix);
    Array::read(&mut parts)?;
    parts.expect()
}

/// An array of one whole number.
fn number(matrix: &[u8]) -> Result<u32, String> {
    let value = match content(matrix)? {
        (2, &[byte]) => f64::from(byte),
        (3 | 4, &[a, b]) => f64::from(u16::from_le_bytes([a, b])),
        (5 | 6, data) if data.len() == 4 => f64::from(u32_at(data, 0)),
        (9, data) if data.len() == 8 => {
            f64::from_bits(u64::from(u32_at(data, 0)) | u64::from(u32_at(data, 4)) << 32)
        }
        _ => return Err("has an ILSVRC2012_ID that is not a number".into()),
    };
    match value {
        value if (1.0..1e6).contains(&value) && value.fract() == 0.0 => Ok(value as u32),
        value => Err(format!("has the ILSVRC2012_ID {value}; ids count from 1")),
    }
}

/// An array of ASCII characters.
fn text(matrix: &[u8]) -> Result<String, String> {
    let (kind, data) = content(matrix)?;
    let bytes: Vec<u8> = match kind {
        // 8-bit and UTF-8, 16-bit and UTF-16.
        1 | 2 | 16 => data.to_vec(),
        4 | 17 => data.chunks_exact(2).map(|pair| if pair[1] == 0 { pair[0] } else { 0 }).collect(),
        _ => return Err("has a WNID that is not text".into()),
    };
    match String::from_utf8(bytes) {
        Ok(text) if text.len() < 64 && text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(text),
        _ => Err("has a WNID that is not a WordNet id".into()),
    }
}

/// Four bytes at `at`, which exist.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
