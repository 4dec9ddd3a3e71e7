//! Encoded bytes to RGB8. The format is told by the first bytes, never by a file's name.
//!
//! JPEG: grey, YCbCr, RGB, CMYK and YCCK, baseline and progressive. PNG: every depth and colour
//! type; 16-bit samples keep their high byte, an alpha channel is dropped without blending. EXIF
//! orientation is ignored, as the usual training pipelines do. This is the seam where another
//! decoder fits: it knows nothing of files, labels or crops.

use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::{ColorType, ImageDecoder};
use thiserror::Error;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// The largest width and height that is decoded, in pixels.
const MAX_SIDE: u32 = 16_384;
/// The largest area that is decoded, in pixels.
const MAX_PIXELS: u64 = 100_000_000;

/// Why bytes are not an image.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// There are no bytes.
    #[error("the file is empty")]
    Empty,
    /// Neither JPEG nor PNG.
    #[error("not a JPEG or PNG image{hint}; convert it to JPEG or PNG")]
    UnknownFormat {
        /// What it looks like, as a parenthesis, or nothing.
        hint: &'static str,
    },
    /// The end of the image is missing.
    #[error("the image is truncated; fetch the file again")]
    Truncated,
    /// Larger than any photograph.
    #[error(
        "{width}x{height} pixels is too large (at most {MAX_SIDE} a side and 100 megapixels); \
         scale it down"
    )]
    TooLarge {
        /// Pixels a row, by the header.
        width: u32,
        /// Rows, by the header.
        height: u32,
    },
    /// Damaged, or a variant of the format that is not supported.
    #[error("cannot decode this {format}: {reason}")]
    Corrupt {
        /// "JPEG" or "PNG".
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
}

/// An RGB8 image whose memory is kept from one image to the next.
#[derive(Debug, Default)]
pub struct Image {
    width: u32,
    height: u32,
    /// At least `width * height * 3` bytes; what lies beyond belongs to an earlier image.
    pixels: Vec<u8>,
}

impl Image {
    /// Pixels a row.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// `[height, width, 3]`, red first.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels[..num_bytes(self.width, self.height)]
    }

    /// Gives the image a size and returns its pixels to be written.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`], before anything is allocated.
    pub fn reset(&mut self, width: u32, height: u32) -> Result<&mut [u8], DecodeError> {
        check_size(width, height)?;
        (self.width, self.height) = (width, height);
        let len = num_bytes(width, height);
        if self.pixels.len() < len {
            self.pixels.resize(len, 0);
        }
        Ok(&mut self.pixels[..len])
    }
}

fn num_bytes(width: u32, height: u32) -> usize {
    width as usize * height as usize * 3
}

pub(super) fn check_size(width: u32, height: u32) -> Result<(), DecodeError> {
    let area = u64::from(width) * u64::from(height);
    if width > MAX_SIDE || height > MAX_SIDE || area > MAX_PIXELS {
        return Err(DecodeError::TooLarge { width, height });
    }
    Ok(())
}

/// Decodes one image after another; keeps its scratch memory.
#[derive(Debug, Default)]
pub struct Decoder {
    /// PNG samples as stored, before they become RGB8.
    raw: Vec<u8>,
}

impl Decoder {
    /// Decodes `bytes` into `image`, whose content is unspecified after an error.
    ///
    /// # Errors
    /// [`DecodeError`] for anything but a whole JPEG or PNG of a sane size.
    pub fn decode(&mut self, bytes: &[u8], image: &mut Image) -> Result<(), DecodeError> {
        match bytes {
            [] => Err(DecodeError::Empty),
            [0xff, 0xd8, 0xff, ..] => decode_jpeg(bytes, image),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => {
                self.decode_png(bytes, image)
            }
            // The JPEG or PNG signature cut short.
            [0xff] | [0xff, 0xd8] => Err(DecodeError::Truncated),
            [0x89, ..] if bytes.len() < 8 && b"\x89PNG\r\n\x1a\n".starts_with(bytes) => {
                Err(DecodeError::Truncated)
            }
            _ => Err(DecodeError::UnknownFormat { hint: format_hint(bytes) }),
        }
    }

    fn decode_png(&mut self, bytes: &[u8], image: &mut Image) -> Result<(), DecodeError> {
        let decoder = PngDecoder::new(Cursor::new(bytes)).map_err(png_error)?;
        let (width, height) = decoder.dimensions();
        let pixels = image.reset(width, height)?;
        let color = decoder.color_type();
        let num_raw = pixels.len() / 3 * usize::from(color.bytes_per_pixel());
        if color == ColorType::Rgb8 {
            return decoder.read_image(pixels).map_err(png_error);
        }
        if self.raw.len() < num_raw {
            self.raw.resize(num_raw, 0);
        }
        let raw = &mut self.raw[..num_raw];
        decoder.read_image(raw).map_err(png_error)?;
        to_rgb(raw, color, pixels)
    }
}

/// Names the formats that people mistake for JPEG most often.
fn format_hint(bytes: &[u8]) -> &'static str {
    match bytes {
        [b'G', b'I', b'F', b'8', ..] => " (it is a GIF)",
        [b'B', b'M', ..] => " (it is a BMP)",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => " (it is a WebP)",
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => " (it is a TIFF)",
        [b'<', ..] => " (it looks like a web page or SVG)",
        _ => "",
    }
}

fn decode_jpeg(bytes: &[u8], image: &mut Image) -> Result<(), DecodeError> {
    if !has_end_of_image(bytes) {
        return Err(DecodeError::Truncated);
    }
    let corrupt = |error: zune_jpeg::errors::DecodeErrors| DecodeError::Corrupt {
        format: "JPEG",
        reason: one_line(&error),
    };
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(corrupt)?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    let pixels = image.reset(width as u32, height as u32)?; // 16-bit numbers in the header
    decoder.decode_into(pixels).map_err(corrupt)
}

/// Whether an end marker (FF D9) follows the first scan header of a JPEG.
///
/// The decoder fills a missing end with grey even when strict (the last row of blocks is not
/// checked), so truncation has to be found here. The search starts after the headers because an
/// embedded thumbnail has an end marker of its own; within coded data FF is always followed by 00
/// or a restart marker.
fn has_end_of_image(bytes: &[u8]) -> bool {
    let Some(scan) = first_scan(bytes) else { return false };
    bytes[scan..].windows(2).rev().any(|pair| pair == [0xff, 0xd9])
}

/// The offset just after the first start-of-scan marker.
fn first_scan(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        at += bytes[at..].iter().position(|&byte| byte != 0xff)?;
        let marker = bytes[at];
        at += 1;
        match marker {
            0xda => return Some(at),
            0x00 | 0x01 | 0xd0..=0xd8 => {} // stuffing and markers without a length
            _ => at += usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])),
        }
    }
}

fn png_error(error: image::ImageError) -> DecodeError {
    match &error {
        image::ImageError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated
        }
        _ => DecodeError::Corrupt { format: "PNG", reason: one_line(&error) },
    }
}

fn one_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Converts the samples of a PNG, 16-bit ones in native byte order.
fn to_rgb(raw: &[u8], color: ColorType, pixels: &mut [u8]) -> Result<(), DecodeError> {
    let high = usize::from(cfg!(target_endian = "little"));
    // (bytes a pixel, where red, green and blue are)
    let (stride, at) = match color {
        ColorType::L8 => (1, [0, 0, 0]),
        ColorType::La8 => (2, [0, 0, 0]),
        ColorType::Rgba8 => (4, [0, 1, 2]),
        ColorType::L16 => (2, [high; 3]),
        ColorType::La16 => (4, [high; 3]),
        ColorType::Rgb16 => (6, [high, 2 + high, 4 + high]),
        ColorType::Rgba16 => (8, [high, 2 + high, 4 + high]),
        other => {
            let reason = format!("colour type {other:?} is not supported");
            return Err(DecodeError::Corrupt { format: "PNG", reason });
        }
    };
    for (from, to) in raw.chunks_exact(stride).zip(pixels.chunks_exact_mut(3)) {
        to.copy_from_slice(&at.map(|offset| from[offset]));
    }
    Ok(())
}
