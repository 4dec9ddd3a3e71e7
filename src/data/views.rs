//! The views of an image that a test averages over, and single images for prediction.
//!
//! §4.1: the network predicts from the four corner crops and the central one, and their
//! reflections. Views are windows; averaging the predictions is the caller's business.

use std::path::Path;

use clap::ValueEnum;

use super::cover::{Needed, Window, centre};
use super::error::DataError;
use super::files::read_file;
use super::geometry::Geometry;
use super::normalisation::Normalisation;
use super::worker::{Loaded, Worker};

/// Which crops of an image a test looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Views {
    /// The centre.
    #[default]
    #[value(name = "1")]
    Centre,
    /// Four corners, the centre, and their reflections (§4.1 of the paper).
    #[value(name = "10")]
    Ten,
}

impl Views {
    /// The number of views.
    #[must_use]
    pub fn num(self) -> usize {
        match self {
            Self::Centre => 1,
            Self::Ten => 10,
        }
    }

    /// What of the frame the windows show, where they can move by `slack`.
    pub(super) fn needed(self, slack: (u32, u32)) -> Needed {
        match self {
            Self::Centre => {
                let (left, top) = (centre(slack.0), centre(slack.1));
                Needed::Window(Window { left, top, mirrored: false })
            }
            Self::Ten => Needed::Frame,
        }
    }

    /// The windows, where a window can move by `slack` (columns, rows). Ten are in torchvision's order: top left, top
    /// right, bottom left, bottom right, centre; then the same places of the reflected image, so that the sixth is
    /// the second mirrored. The last is the fifth mirrored even where no place is exactly in the middle.
    pub(super) fn windows(self, slack: (u32, u32)) -> impl Iterator<Item = Window> {
        let (right, bottom) = slack;
        let middle = (centre(right), centre(bottom));
        let places = [(0, 0), (right, 0), (0, bottom), (right, bottom), middle];
        let reflected = [places[1], places[0], places[3], places[2], middle];
        let chosen = match self {
            Self::Centre => 4..5,
            Self::Ten => 0..10,
        };
        chosen.map(move |view| {
            let mirrored = view >= 5;
            let (left, top) = if mirrored { reflected[view - 5] } else { places[view] };
            Window { left, top, mirrored }
        })
    }
}

/// Reads, decodes and prepares one file: `[views.num(), crop, crop, 3]`.
///
/// # Errors
/// [`DataError::Io`], [`DataError::Decode`] or [`DataError::Geometry`].
pub fn load_views(
    path: &Path,
    geometry: &Geometry,
    normalisation: &Normalisation,
    views: Views,
) -> Result<Vec<f32>, DataError> {
    geometry.check()?;
    normalisation.check()?;
    let mut bytes = Vec::new();
    read_file(path, &mut bytes).map_err(DataError::io("read", path))?;
    let mut worker = Worker::default();
    let name = path.display().to_string();
    let drawing = |width, height| geometry.drawing(width, height, |slack| views.needed(slack));
    worker.decode(&bytes, drawing).map_err(|source| DataError::Decode { name, source })?;
    let mut out = vec![0.0; views.num() * geometry.num_values()];
    let windows = |slack| views.windows(slack);
    let canvas = &mut &mut out[..];
    worker.finish(Loaded::Worker, geometry, normalisation, [0.0; 3], windows, canvas)?;
    Ok(out)
}
