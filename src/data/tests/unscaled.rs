//! Images that keep their size: drawn row by row, and by the resizer at scale one.

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use super::picture;
use crate::data::cover::{Cover, Drawing, Part};
use crate::data::jpeg::{Lines, RegionDecoder};
use crate::data::resample::{Resample, Target};
use crate::data::unscaled::{Scratch, Unscaled};
use crate::random::{Key, Purpose};

/// Files of every kind that the decoder of regions takes.
fn files(width: u16, height: u16) -> Vec<Vec<u8>> {
    use SamplingFactor::{F_1_1, F_1_2, F_2_1, F_2_2};
    let kinds = [
        (ColorType::Luma, F_1_1),
        (ColorType::Rgb, F_1_1),
        (ColorType::Rgb, F_1_2),
        (ColorType::Rgb, F_2_1),
        (ColorType::Rgb, F_2_2),
    ];
    let encode = |(color, sampling)| {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, 95);
        encoder.set_sampling_factor(sampling);
        let len = usize::from(width) * usize::from(height) * color_bytes(color);
        let pixels = &picture(u32::from(width), u32::from(height), 3)[..len];
        encoder.encode(pixels, width, height, color).expect("a valid picture");
        file
    };
    kinds.into_iter().map(encode).collect()
}

fn color_bytes(color: ColorType) -> usize {
    if color == ColorType::Luma { 1 } else { 3 }
}

#[test]
fn images_that_keep_their_size_are_drawn_bit_for_bit_as_the_resizer_would() {
    let (width, height) = (101, 87);
    let files = files(width, height);
    for (case, file) in (0..).zip(files.iter().cycle().take(200)) {
        let key = Key::new(9, Purpose::Crop).with(case);
        let draw =
            |index, from: u32, to: u32| from + (key.bits(index) % u64::from(to - from)) as u32;
        // A square part of the image, and a window of it at least a strip wide.
        let side = draw(0, 16, 88);
        let (left, top) = (draw(1, 0, 102 - side), draw(2, 0, 88 - side));
        let cover = Cover::part(side, Part { left, top, width: side, height: side });
        let first = draw(3, 0, side - 15);
        let columns = first..draw(4, first + 16, side + 1);
        let first = draw(5, 0, side);
        let rows = first..draw(6, first + 1, side + 1);
        let drawing = Drawing { cover, columns, rows };

        let mut decoder = RegionDecoder::default();
        let size = decoder.open(file).expect("a baseline file");
        let colour_step = decoder.colour_step();
        let pitch = side as usize * 3;
        let mut expected = vec![7; pitch * side as usize];
        let mut got = expected.clone();
        let start = drawing.rows.start as usize * pitch + drawing.columns.start as usize * 3;

        let mut resample = Resample::default();
        let [columns, rows] = resample.set(&drawing, colour_step, size);
        let planes = decoder.decode(file, columns, rows, Lines::Columns).expect("a whole file");
        resample.draw(planes, Target { out: &mut expected[start..], pitch });

        let unscaled = Unscaled::new(&drawing, colour_step).expect("pixels on pixels");
        let [columns, rows] = unscaled.reach();
        let planes = decoder.decode(file, columns, rows, Lines::Rows).expect("a whole file");
        unscaled.draw(planes, &mut Scratch::default(), Target { out: &mut got[start..], pitch });
        assert!(got == expected, "{drawing:?}, colours every {colour_step:?}");
    }
}

#[test]
fn what_does_not_lie_pixel_on_pixel_is_left_to_the_resizer() {
    let cover = |side, width| Cover::part(side, Part { left: 3, top: 2, width, height: side });
    let mut between = cover(20, 20);
    between.y.origin += 0.5;
    for (cover, what) in [(cover(20, 21), "wider"), (between, "between"), (cover(15, 15), "narrow")]
    {
        assert!(Unscaled::new(&Drawing::whole(cover), (2, 2)).is_none(), "{what}");
    }
    assert!(Unscaled::new(&Drawing::whole(cover(20, 20)), (2, 2)).is_some());
}
