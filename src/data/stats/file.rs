//! The file that holds statistics: safetensors, with `mean_image` as `[height, width, 3]` and the
//! numbers as JSON in the metadata.
//!
//! The sums are what is read back; mean, deviation and components are written for people and for
//! other programs.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::Stats;
use crate::data::error::DataError;
use crate::data::mean_image::MeanImage;
use crate::data::moments::{ColourStatistics, Moments};
use crate::replace::replace;

/// The version of the layout this program writes and reads.
const FORMAT: u32 = 1;
/// The key in the metadata.
const KEY: &str = "alexnet-mgpu.stats";
const MEAN_IMAGE: &str = "mean_image";

/// Everything that is not a tensor.
#[derive(Serialize, Deserialize)]
struct Numbers {
    format: u32,
    num_images: u64,
    resize: u32,
    moments: Moments,
    statistics: ColourStatistics,
}

impl Stats {
    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// [`DataError::Io`] if the folder is not there, or cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        let bytes = self.to_bytes().map_err(DataError::io("write", path))?;
        let written = replace(path, |file| file.write_all(&bytes));
        written.map_err(DataError::io("write", path))
    }

    pub(in crate::data) fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let numbers = Numbers {
            format: FORMAT,
            num_images: self.num_images,
            resize: self.resize,
            moments: self.moments,
            statistics: self.colours,
        };
        let metadata = HashMap::from([(KEY.to_owned(), serde_json::to_string(&numbers)?)]);
        let image = self.mean_image.as_deref().map(|image| {
            let shape = vec![image.height() as usize, image.width() as usize, 3];
            let bytes: Vec<u8> = image.values().iter().flat_map(|x| x.to_le_bytes()).collect();
            (shape, bytes)
        });
        let views = image.iter().map(|(shape, bytes)| {
            Ok((MEAN_IMAGE, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        });
        let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
        let bytes = views.and_then(|views| safetensors::serialize(views, Some(metadata)));
        bytes.map_err(io::Error::other)
    }

    /// Reads a file that [`Stats::write`] wrote.
    ///
    /// # Errors
    /// [`DataError::Io`] if it cannot be read, [`DataError::Malformed`] if it is something else or
    /// damaged.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let bytes = fs::read(path).map_err(DataError::io("read", path))?;
        Self::of_bytes(&bytes).map_err(|problem| {
            let problem = format!("{problem}; make it again with `alexnet-mgpu stats`");
            DataError::malformed(path, problem)
        })
    }

    pub(in crate::data) fn of_bytes(bytes: &[u8]) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| text(&error))?;
        let numbers = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let numbers = numbers.ok_or("is not a file of statistics")?;
        let Numbers { format, num_images, resize, moments, .. } =
            serde_json::from_str(numbers).map_err(|error| text(&error))?;
        if format != FORMAT {
            return Err(format!("has format {format}, and this program reads {FORMAT}"));
        }
        if !moments.are_of_pixels() {
            return Err("has sums that no pixels have".into());
        }
        let colours = moments.statistics().ok_or("counts no pixels")?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| text(&error))?;
        let mean_image = tensors.tensor(MEAN_IMAGE).ok().map(|view| image(&view)).transpose()?;
        let mean_image = mean_image.map(Arc::new);
        Ok(Self { num_images, resize, moments, colours, mean_image })
    }
}

fn image(view: &TensorView<'_>) -> Result<MeanImage, String> {
    let &[height, width, 3] = view.shape() else {
        return Err(format!("has a mean image of shape {:?}", view.shape()));
    };
    if view.dtype() != Dtype::F32 {
        return Err(format!("has a mean image of type {:?}", view.dtype()));
    }
    let values: Vec<f32> =
        view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if values.iter().any(|value| !(0.0..=255.0).contains(value)) {
        return Err("has a mean image beyond 0 to 255".into());
    }
    let side = |side: usize| u32::try_from(side).map_err(|error| error.to_string());
    Ok(MeanImage::new(side(width)?, side(height)?, values))
}
