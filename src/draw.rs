//! Pictures of what a network has learned, its first filters (figure 3 of the paper), and of what it sees in an
//! image, the maps of every layer.
//!
//! The network is built of its single layers, so that each of the paper's has maps to show. How pictures stand on a
//! sheet is `sheet`'s business.

mod sheet;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use image::codecs::png::PngEncoder;
use image::{Luma, Pixel, PixelWithColorType, Rgb, RgbImage};
use tch::{Kind, Tensor};

use crate::cli::DrawArgs;
use crate::colours::Colours;
use crate::data::{Normalisation, Views};
use crate::exit::{Coded, Exit, in_words};
use crate::launch::Place;
use crate::net::build::{Plan, Site, Style};
use crate::net::{Mode, Net, Pass};
use crate::params::Sharing;
use crate::random::{Key, Purpose};
use crate::replace::replace;
use crate::run;
use crate::stdout;
use crate::trained::{Trained, all_readable};
use sheet::{Picture, sheet};

/// Draws a model's filters and, for each image, its maps, and prints the names of the pictures.
///
/// # Errors
/// If the model or an image cannot be read, or a picture not be written. All other images are drawn nevertheless.
pub fn run(args: &DrawArgs) -> Result<()> {
    let folders = folders(&args.images, &args.output)?;
    let mut model = Trained::load(&args.model)?;
    model.config.devices.device = args.device;
    let world = run::world(&model.config)?;
    let colours = Colours::find(&model.config)?;
    let num_bad = world.run(|place| {
        let plan = Plan::new(&model.arch, Site::WHOLE)?;
        let num_bands = model.arch.columns() as usize;
        let filters = args.output.join("conv1-filters.png");
        let of_filters = filters_of(&model.part(&plan.params[0])?)?;
        show(&filters, &sheet(&of_filters, num_bands))?;
        let mut net = net(&plan, &model, &place)?;
        let mut num_bad = 0;
        for (image, folder) in args.images.iter().zip(&folders) {
            let x = match model.views_of(image, &colours, Views::Centre) {
                Ok(x) => x,
                Err(error) => {
                    tracing::error!("{}", in_words(&error));
                    num_bad += 1;
                    continue;
                }
            };
            show(&folder.join("00-input.png"), &picture_of(&x, &colours.normalisation)?)?;
            let x = x.f_to_device(place.device)?;
            for (i, (layer, maps)) in maps(&mut net, x, &place)?.into_iter().enumerate() {
                let path = folder.join(format!("{:02}-{layer}.png", i + 1));
                show(&path, &sheet(&tiles_of(&maps)?, num_bands))?;
            }
        }
        Ok(num_bad)
    })?;
    all_readable(num_bad.into_iter().sum(), args.images.len())
}

/// A folder for each image, by the image's name.
fn folders(images: &[PathBuf], output: &Path) -> Result<Vec<PathBuf>> {
    refuse_file(output)?;
    let mut taken = HashSet::new();
    let mut folders = Vec::with_capacity(images.len());
    for image in images {
        let name = image.file_name().unwrap_or(image.as_os_str());
        let folder = output.join(name);
        if !taken.insert(name) {
            let error = anyhow!(
                "{}: another image is called {} too, and both have their pictures in a folder of that name; \
                 draw one of them by itself, with another --output",
                image.display(),
                name.display()
            );
            return Err(Coded::new(Exit::Usage, error).into());
        }
        refuse_file(&folder)?;
        folders.push(folder);
    }
    Ok(folders)
}

/// Fails if there is something at `path` that is no folder to put pictures in, such as the image itself.
fn refuse_file(path: &Path) -> Result<()> {
    if !path.exists() || path.is_dir() {
        return Ok(());
    }
    let error = anyhow!(
        "{}: pictures go into a folder of this name, and it is a file; choose another --output",
        path.display()
    );
    Err(Coded::new(Exit::Usage, error).into())
}

/// The model's network in 32-bit floats, one layer for each of its own.
fn net(plan: &Plan, model: &Trained, place: &Place) -> Result<Net> {
    let alone = Sharing { rank: 0, size: 1, bucket_bytes: usize::MAX };
    let mut arena = plan.arena(Kind::Float, place.device, alone);
    arena.load(|spec| model.part(spec))?;
    Ok(plan.build_in(Style::Plain, arena))
}

/// The maps of every layer that has some, `[C, H, W]` on the CPU, for one image `x`, `[1, H, W, 3]`.
fn maps(net: &mut Net, x: Tensor, place: &Place) -> Result<Vec<(String, Tensor)>> {
    let pass = Pass {
        mode: Mode::Eval,
        dropout: Key::new(0, Purpose::Dropout),
        first: 0,
        columns: &*place.columns,
        shares: &[],
    };
    let outputs = net.activations(x, &pass)?;
    let of_layer = |(name, y): (String, Tensor)| match y.dim() {
        4 => Some(y.f_get(0).and_then(|y| y.f_permute([2, 0, 1])).map(|y| (name, y))),
        _ => None,
    };
    Ok(outputs.into_iter().filter_map(of_layer).collect::<Result<_, _>>()?)
}

/// How values become grey levels.
struct Scale {
    zero: f32,
    unit: f32,
}

impl Scale {
    /// From the level of zero to white, or from black to white around it where some values are negative. The
    /// largest in a thousand may be cut off: few would leave all others dark.
    fn of(values: &[f32]) -> Self {
        let mut sizes: Vec<f32> = values.iter().map(|value| value.abs()).collect();
        sizes.sort_unstable_by(f32::total_cmp);
        let most = sizes.get(sizes.len() * 999 / 1000).copied().unwrap_or_default();
        let largest = if most > 0.0 { most } else { sizes.last().copied().unwrap_or_default() };
        let (zero, levels) = match values.iter().any(|&value| value < 0.0) {
            true => (128.0, 127.0),
            false => (0.0, 255.0),
        };
        Self { zero, unit: levels / largest.max(f32::MIN_POSITIVE) }
    }

    fn level(&self, value: f32) -> u8 {
        level(self.zero + self.unit * value)
    }
}

/// The nearest level there is.
fn level(value: f32) -> u8 {
    value.round() as u8 // saturates
}

fn values_of(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.f_contiguous()?.f_view(-1)?.try_into()?)
}

/// A tile for each filter of `w`, `[O, 3, K, K]`, on a scale of its own.
fn filters_of(w: &Tensor) -> Result<Vec<RgbImage>> {
    let side = w.size()[2] as u32;
    let values = values_of(&w.f_permute([0, 2, 3, 1])?.f_to_kind(Kind::Float)?)?;
    let tile = |filter: &[f32]| {
        let scale = Scale::of(filter);
        tile(side, side, filter.iter().map(|&value| scale.level(value)).collect())
    };
    values.chunks_exact((side * side * 3) as usize).map(tile).collect()
}

/// A tile for each map of a layer, `[C, H, W]`, all on one scale.
fn tiles_of(maps: &Tensor) -> Result<Vec<Picture<Luma<u8>>>> {
    let (height, width) = (maps.size()[1] as u32, maps.size()[2] as u32);
    let values = values_of(&maps.f_to_device(tch::Device::Cpu)?)?;
    let scale = Scale::of(&values);
    let of_map = |map: &[f32]| tile(width, height, map.iter().map(|&v| scale.level(v)).collect());
    values.chunks_exact((width * height) as usize).map(of_map).collect()
}

fn tile<P: Pixel<Subpixel = u8>>(width: u32, height: u32, levels: Vec<u8>) -> Result<Picture<P>> {
    Picture::from_raw(width, height, levels).context("as many levels as pixels")
}

/// What the network is shown, `x`, `[1, H, W, 3]`, as colours again; where a mean image is subtracted, as if it
/// were the mean colour.
fn picture_of(x: &Tensor, normalisation: &Normalisation) -> Result<Picture<Rgb<u8>>> {
    let (height, width) = (x.size()[1] as u32, x.size()[2] as u32);
    let Normalisation { mean, std, .. } = normalisation;
    let values = values_of(x)?;
    let levels = values.iter().enumerate().map(|(i, &v)| level(v * std[i % 3] + mean[i % 3]));
    tile(width, height, levels.collect())
}

/// Writes a picture and prints its name.
fn show<P>(path: &Path, picture: &Picture<P>) -> Result<()>
where
    P: PixelWithColorType + Pixel<Subpixel = u8>,
{
    let written = fs::create_dir_all(crate::replace::folder(path)).and_then(|()| {
        let as_png = |file: &mut io::BufWriter<&fs::File>| {
            picture.write_with_encoder(PngEncoder::new(file)).map_err(io::Error::other)
        };
        replace(path, as_png)
    });
    written.with_context(|| format!("{}: the picture cannot be written", path.display()))?;
    stdout::line(path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_tell_the_sign_where_there_is_one() {
        let positive = Scale::of(&[0.0, 1.0, 4.0]);
        assert_eq!([0.0, 2.0, 4.0, 9.0].map(|v| positive.level(v)), [0, 128, 255, 255]);
        let signed = Scale::of(&[0.0, -4.0, 2.0]);
        assert_eq!([-4.0, 0.0, 2.0, 4.0].map(|v| signed.level(v)), [1, 128, 192, 255]);
        assert_eq!(Scale::of(&[0.0; 3]).level(0.0), 0, "a layer that says nothing is black");
    }

    #[test]
    fn one_value_in_a_thousand_does_not_darken_the_others() {
        let mut values = vec![1.0; 2000];
        (values[0], values[1]) = (1000.0, 0.0);
        let scale = Scale::of(&values);
        assert_eq!([0.0, 1.0, 1000.0].map(|v| scale.level(v)), [0, 255, 255]);
        // Unless the others are all zero.
        let mut sparse = vec![0.0; 5000];
        sparse[7] = 3.0;
        assert_eq!(Scale::of(&sparse).level(3.0), 255);
    }

    #[test]
    fn a_picture_is_what_was_normalised() {
        let normalisation = Normalisation::new([100.0, 110.0, 120.0], [50.0, 60.0, 70.0]);
        let x = Tensor::from_slice(&[0.0f32, 1.0, -1.0, 9.0, -9.0, 0.5]).view([1, 1, 2, 3]);
        let picture = picture_of(&x, &normalisation).expect("floats");
        assert_eq!(picture.into_raw(), [100, 170, 50, 255, 0, 155]);
    }

    #[test]
    fn images_of_one_name_would_share_a_folder() {
        let paths = ["a/cat.jpg", "b/cat.jpg"].map(PathBuf::from);
        let error = folders(&paths, Path::new("out")).expect_err("both are cat.jpg");
        assert!(error.to_string().starts_with("b/cat.jpg: another image is called cat.jpg"));
        let found = folders(&paths[..1], Path::new("out")).expect("one name");
        assert_eq!(found, [Path::new("out/cat.jpg")]);
    }

    #[test]
    fn a_folder_of_pictures_cannot_lie_where_the_image_lies() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let image = dir.path().join("cat.jpg");
        fs::write(&image, "").expect("writable");
        let images = [image.clone()];
        for output in [dir.path(), &image] {
            let error = folders(&images, output).expect_err("there is a file");
            let text = error.to_string();
            assert!(text.starts_with(&image.display().to_string()), "{text}");
            assert!(text.contains("choose another --output"), "{text}");
            assert_eq!(crate::exit::exit_of(&error), Exit::Usage);
        }
        folders(&images, &dir.path().join("new")).expect("nothing is there");
        folders(&[PathBuf::from("a/dog.jpg")], dir.path()).expect("nothing of its name is there");
    }
}
