//! Many small pictures of one size on one sheet. Knows nothing of networks.

use image::imageops::{self, FilterType};
use image::{ImageBuffer, Pixel};

/// Pixels between two tiles, and around all of them.
const GAP: u32 = 2;
/// Pixels between two bands of tiles.
const BAND_GAP: u32 = 12;
/// The least side of a tile; smaller ones are enlarged by a whole factor.
const SMALLEST: u32 = 64;

/// A picture in bytes.
pub(super) type Picture<P> = ImageBuffer<P, Vec<u8>>;

/// The tiles in `num_bands` bands of as many each, one below the other on white.
///
/// # Panics
/// If there is no tile or no band.
pub(super) fn sheet<P: Pixel<Subpixel = u8> + 'static>(
    tiles: &[Picture<P>],
    num_bands: usize,
) -> Picture<P> {
    let per_band = tiles.len().div_ceil(num_bands);
    let columns = columns(per_band);
    let rows = per_band.div_ceil(columns) as u32;
    let (width, height) = tiles[0].dimensions();
    let factor = SMALLEST.div_ceil(width.max(height));
    let (width, height) = (width * factor, height * factor);
    let band = rows * (height + GAP) - GAP;
    let num_bands = num_bands as u32;
    let mut sheet = Picture::from_pixel(
        columns as u32 * (width + GAP) + GAP,
        num_bands * (band + BAND_GAP) - BAND_GAP + 2 * GAP,
        white(),
    );
    for (i, tile) in tiles.iter().enumerate() {
        let tile = imageops::resize(tile, width, height, FilterType::Nearest);
        let (row, column) = ((i % per_band / columns) as u32, (i % per_band % columns) as u32);
        let top = GAP + (i / per_band) as u32 * (band + BAND_GAP) + row * (height + GAP);
        let left = GAP + column * (width + GAP);
        imageops::replace(&mut sheet, &tile, left.into(), top.into());
    }
    sheet
}

fn white<P: Pixel<Subpixel = u8>>() -> P {
    *P::from_slice(&[u8::MAX; 4][..P::CHANNEL_COUNT.into()])
}

/// In how many columns `num` tiles stand without a gap, about twice as wide as high.
fn columns(num: usize) -> usize {
    let divides = |columns: &usize| num.is_multiple_of(*columns) && columns * columns >= 2 * num;
    (1..=num).find(divides).unwrap_or(num)
}

#[cfg(test)]
mod tests {
    use image::{Luma, Rgb};

    use super::*;

    #[test]
    fn the_papers_layers_stand_in_full_rows() {
        assert_eq!([48, 128, 192, 64, 256].map(columns), [12, 16, 24, 16, 32]);
        assert_eq!([1, 2, 7].map(columns), [1, 2, 7]);
    }

    #[test]
    fn tiles_stand_row_by_row_and_bands_below_each_other() {
        let tile = |i: u8| Picture::from_pixel(70, 50, Luma([i]));
        let tiles: Vec<_> = (0..16).map(tile).collect();
        // Two bands of two rows of four.
        let sheet = sheet(&tiles, 2);
        assert_eq!(sheet.dimensions(), (4 * 72 + 2, 2 * 102 + 12 + 2 * 2));
        let at = |column: u32, y: u32| sheet.get_pixel(2 + column * 72, y).0[0];
        assert_eq!([at(0, 2), at(3, 2), at(0, 54), at(3, 103)], [0, 3, 4, 7]);
        let second = 2 + 102 + 12;
        assert_eq!([at(0, second), at(3, second + 52)], [8, 15]);
        assert_eq!([at(0, second - 1), at(0, 0), at(0, 52)], [255; 3]);
    }

    #[test]
    fn small_tiles_are_enlarged_without_blurring() {
        let mut tile = Picture::from_pixel(11, 11, Rgb([10, 20, 30]));
        tile.put_pixel(1, 0, Rgb([0, 0, 0]));
        let sheet = sheet(&[tile], 1);
        assert_eq!(sheet.dimensions(), (66 + 4, 66 + 4));
        let row: Vec<u8> = (0..sheet.width()).map(|x| sheet.get_pixel(x, 2).0[0]).collect();
        assert_eq!(row[..2], [255; 2]);
        assert_eq!(row[2..8], [10; 6]);
        assert_eq!(row[8..14], [0; 6]);
        assert_eq!(row[14], 10);
    }
}
