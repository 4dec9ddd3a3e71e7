//! What decodes, what does not, and that nothing is accepted by half.

use image::{DynamicImage, RgbImage};
use jpeg_encoder::{ColorType, Encoder};

use super::{encode, jpeg, picture, png};
use crate::data::{DecodeError, Decoder, Image};

fn decode(bytes: &[u8]) -> Result<Image, DecodeError> {
    let mut image = Image::default();
    Decoder::default().decode(bytes, &mut image).map(|()| image)
}

fn rgb(width: u32, height: u32) -> RgbImage {
    RgbImage::from_raw(width, height, picture(width, height, 1)).expect("enough pixels")
}

fn progressive() -> Vec<u8> {
    let (pixels, mut bytes) = (picture(40, 24, 3), Vec::new());
    let mut encoder = Encoder::new(&mut bytes, 80);
    encoder.set_progressive(true);
    encoder.encode(&pixels, 40, 24, ColorType::Rgb).expect("a valid picture");
    bytes
}

#[test]
fn a_jpeg_decodes_close_to_the_picture_it_was_made_from() {
    let flat = [200u8, 100, 50].repeat(17 * 9);
    let image = decode(&encode(&flat, 17, 9, ColorType::Rgb)).expect("a valid JPEG");
    assert_eq!((image.width(), image.height()), (17, 9));
    assert_eq!(image.pixels().len(), flat.len());
    assert!(image.pixels().iter().zip(&flat).all(|(a, b)| a.abs_diff(*b) <= 4));
}

#[test]
fn grey_and_cmyk_jpegs_become_rgb() {
    let grey = decode(&encode(&[90; 64], 8, 8, ColorType::Luma)).expect("a grey JPEG");
    assert!(grey.pixels().chunks(3).all(|p| p.iter().all(|v| v.abs_diff(90) <= 2)));
    // No cyan, full magenta and yellow, no black: red.
    for color in [ColorType::Cmyk, ColorType::CmykAsYcck] {
        let ink = [0, 255, 255, 0].repeat(64);
        let image = decode(&encode(&ink, 8, 8, color)).expect("a CMYK JPEG");
        let pixel = &image.pixels()[..3];
        assert!(pixel[0] > 240 && pixel[1] < 15 && pixel[2] < 15, "{color:?}: {pixel:?}");
    }
}

#[test]
fn every_kind_of_png_becomes_rgb_without_blending() {
    let rgb = DynamicImage::from(rgb(9, 7));
    let kinds = [
        rgb.clone(),
        DynamicImage::from(rgb.to_rgba8()),
        DynamicImage::from(rgb.to_rgb16()),
        DynamicImage::from(rgb.to_rgba16()),
    ];
    for kind in kinds {
        let image = decode(&png(&kind)).expect("a valid PNG");
        assert_eq!(image.pixels(), rgb.as_bytes(), "{:?}", kind.color());
    }
    let luma = rgb.to_luma8();
    let grey: Vec<u8> = luma.iter().flat_map(|&v| [v; 3]).collect();
    for kind in
        [DynamicImage::from(luma.clone()), DynamicImage::from(luma).to_luma_alpha16().into()]
    {
        assert_eq!(decode(&png(&kind)).expect("a grey PNG").pixels(), grey);
    }
    let mut clear = rgb.to_rgba8();
    clear.pixels_mut().for_each(|pixel| pixel.0[3] = 0);
    assert_eq!(decode(&png(&clear.into())).expect("a clear PNG").pixels(), rgb.as_bytes());
}

#[test]
fn a_jpeg_cut_anywhere_is_an_error() {
    let baseline = jpeg(48, 40, 7);
    for bytes in [baseline, progressive()] {
        assert!(decode(&bytes).is_ok());
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "{len} of {} bytes decoded", bytes.len());
        }
        let half = decode(&bytes[..bytes.len() / 2]).err();
        assert_eq!(half, Some(DecodeError::Truncated));
    }
}

#[test]
fn a_png_cut_before_its_last_chunk_is_an_error() {
    let bytes = png(&rgb(20, 20).into());
    assert!(decode(&bytes).is_ok());
    let end_chunk = 12;
    for len in 0..bytes.len() - end_chunk {
        assert!(decode(&bytes[..len]).is_err(), "{len} of {} bytes decoded", bytes.len());
    }
}

#[test]
fn a_truncated_jpeg_with_a_whole_thumbnail_is_still_truncated() {
    let (thumbnail, mut main) = (jpeg(8, 8, 0), jpeg(48, 40, 0));
    let mut segment = vec![0xff, 0xe1];
    segment.extend((thumbnail.len() as u16 + 2).to_be_bytes());
    segment.extend(&thumbnail);
    main.splice(2..2, segment);
    assert!(decode(&main).is_ok());
    main.truncate(main.len() - 100);
    assert_eq!(decode(&main).err(), Some(DecodeError::Truncated));
}

#[test]
fn bytes_after_the_end_of_a_jpeg_do_not_matter() {
    let mut bytes = jpeg(16, 16, 0);
    bytes.extend([0; 100]);
    assert!(decode(&bytes).is_ok());
}

#[test]
fn what_is_no_image_is_named() {
    assert_eq!(decode(&[]).err(), Some(DecodeError::Empty));
    let message = |bytes: &[u8]| decode(bytes).expect_err("not an image").to_string();
    assert!(message(b"GIF89a....").contains("it is a GIF"));
    assert!(message(b"<html></html>").contains("web page"));
    assert!(message(&[0; 64]).contains("not a JPEG or PNG"));
}

#[test]
fn a_header_that_claims_a_huge_image_is_refused_before_memory_is_taken() {
    let mut bytes = jpeg(16, 16, 0);
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame header");
    bytes[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    let error = decode(&bytes).err();
    assert_eq!(error, Some(DecodeError::TooLarge { width: 65535, height: 65535 }));
    let mut image = Image::default();
    assert!(image.reset(16_384, 16_384).is_err());
    assert!(image.reset(u32::MAX, u32::MAX).is_err());
    assert!(image.pixels().is_empty());
}

#[test]
fn damaged_bytes_never_panic() {
    for original in [jpeg(32, 32, 1), progressive(), png(&rgb(16, 16).into())] {
        for at in 0..original.len() {
            let mut bytes = original.clone();
            bytes[at] ^= 0x5a;
            let _ = decode(&bytes); // either way is right; panicking is not
        }
    }
}

#[test]
fn memory_is_reused_and_a_smaller_image_after_a_larger_one_is_right() {
    let (mut decoder, mut image) = (Decoder::default(), Image::default());
    let (large, small) = (png(&rgb(30, 30).into()), png(&rgb(5, 4).into()));
    decoder.decode(&large, &mut image).expect("a valid PNG");
    let memory = image.pixels().as_ptr();
    decoder.decode(&small, &mut image).expect("a valid PNG");
    assert_eq!(image.pixels(), rgb(5, 4).as_raw());
    assert_eq!(image.pixels().as_ptr(), memory);
}
