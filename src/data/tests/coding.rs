//! How a JPEG is coded changes none of its pixels.

use jpeg_encoder::{ColorType, Encoder};

use super::picture;
use crate::data::jpeg::{Lines, Plane, RegionDecoder};

const SIDE: u16 = 75;

/// The samples of all planes of one picture, coded as `set` says.
fn planes(
    decoder: &mut RegionDecoder,
    color: ColorType,
    set: impl Fn(&mut Encoder<&mut Vec<u8>>),
) -> Vec<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, 90);
    set(&mut encoder);
    let num_channels = if color == ColorType::Luma { 1 } else { 3 };
    let num_bytes = usize::from(SIDE) * usize::from(SIDE) * num_channels;
    let pixels = &picture(u32::from(SIDE), u32::from(SIDE), 3)[..num_bytes];
    encoder.encode(pixels, SIDE, SIDE, color).expect("a valid picture");
    decoder.open(&file).expect("a baseline file");
    let (all, (across, down)) = (0..usize::from(SIDE), decoder.colour_step());
    let planes =
        decoder.decode(&file, all.clone(), all.clone(), Lines::Rows).expect("a whole file");
    let rows = |(i, plane): (usize, &mut Plane)| {
        let (across, down) = if i == 0 { (1, 1) } else { (across, down) };
        let columns = 0..all.len().div_ceil(across);
        (0..all.len().div_ceil(down))
            .flat_map(|row| plane.part_of_row(row, columns.clone()).to_vec())
            .collect()
    };
    planes.iter_mut().enumerate().map(rows).collect()
}

#[test]
fn restart_markers_change_no_pixel() {
    let mut decoder = RegionDecoder::default();
    for color in [ColorType::Luma, ColorType::Rgb] {
        let expected = planes(&mut decoder, color, |_| ());
        for interval in [1, 2, 7, 100] {
            let got = planes(&mut decoder, color, |encoder| encoder.set_restart_interval(interval));
            assert!(got == expected, "{color:?} with a marker every {interval}");
        }
    }
}

/// Of one component: with tables of its own the encoder writes a scan for each.
#[test]
fn tables_of_its_own_change_no_pixel() {
    let mut decoder = RegionDecoder::default();
    let [usual, own] = [false, true].map(|are_own| {
        planes(&mut decoder, ColorType::Luma, |encoder| {
            encoder.set_optimized_huffman_tables(are_own);
        })
    });
    assert!(usual == own);
}
