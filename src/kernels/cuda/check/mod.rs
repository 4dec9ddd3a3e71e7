//! Every kernel against its CPU twin, on whatever machine runs it: a GPU, or the emulator of the tests.
//!
//! Inputs are noise of the shapes of the paper's network on a few images, and odd shapes beside them.

mod maps;
mod vectors;

use super::CudaError;
use super::machine::{Buffer, Machine};
use super::memory::{Plain, SliceMut};
use super::program::CudaReal;
use crate::kernels::real::{Real, Wide};
use crate::random::{Key, Purpose};
use half::bf16;

/// What one comparison found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// The kernel, the element type and the shape.
    pub name: String,
    /// The largest difference of an element from the twin's, relative to that or to the root mean
    /// square of all, whichever is larger; infinite where only one of them is a number.
    pub difference: f64,
    /// What the difference may be; zero where the results are to be equal bit for bit.
    pub limit: f64,
}

impl Outcome {
    /// Whether the difference keeps to its limit.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.difference <= self.limit
    }
}

/// Some of the comparisons.
pub type Part = fn(&dyn Machine) -> Result<Vec<Outcome>, CudaError>;

/// All comparisons, in parts that may run at the same time: most of it is compiling.
pub const PARTS: [Part; 12] = [
    maps::large::<f32>,
    maps::large::<bf16>,
    maps::large::<f64>,
    maps::odd::<f32>,
    maps::odd::<bf16>,
    maps::odd::<f64>,
    maps::other::<f32>,
    maps::other::<bf16>,
    maps::other::<f64>,
    vectors::all::<f32>,
    vectors::all::<bf16>,
    vectors::all::<f64>,
];

/// Compares every kernel in every element type with its twin.
///
/// # Errors
/// If a kernel cannot be compiled or run.
pub fn all(machine: &dyn Machine) -> Result<Vec<Outcome>, CudaError> {
    let mut outcomes = Vec::new();
    for part in PARTS {
        outcomes.extend(part(machine)?);
    }
    Ok(outcomes)
}

/// An element type with a name and a tolerance.
trait CheckedReal: CudaReal {
    const NAME: &'static str;
    /// What approximations and the order of sums may cost, relative.
    const LIMIT: f64;
}

impl CheckedReal for f32 {
    const NAME: &'static str = "f32";
    const LIMIT: f64 = 1e-5;
}

impl CheckedReal for bf16 {
    const NAME: &'static str = "bf16";
    const LIMIT: f64 = 1e-2;
}

impl CheckedReal for f64 {
    const NAME: &'static str = "f64";
    const LIMIT: f64 = 1e-12;
}

fn real<T: Real>(value: f64) -> T {
    T::narrow(T::Wide::from_f64(value))
}

fn value<T: CudaReal>(element: T) -> f64 {
    element.widen().into()
}

/// Standard normal numbers times `scale`.
fn noise<T: Real>(len: usize, stream: u64, scale: f64) -> Vec<T> {
    let key = Key::new(stream, Purpose::Generate);
    (0..len as u64).map(|i| real(key.normal(i) * scale)).collect()
}

/// Compares `ours` with `twin`, element by element.
fn outcome<T: CudaReal>(name: String, ours: &[T], twin: &[T], limit: f64) -> Outcome {
    let finite = || twin.iter().map(|&x| value(x)).filter(|x| x.is_finite());
    let square: f64 = finite().map(|x| x * x).sum();
    let root_mean_square = (square / finite().count().max(1) as f64).sqrt();
    let difference = |(&ours, &twin): (&T, &T)| {
        let (a, b) = (value(ours), value(twin));
        match (a == b || a.is_nan() && b.is_nan(), a.is_finite() && b.is_finite()) {
            (true, _) => 0.0,
            (false, true) => (a - b).abs() / b.abs().max(root_mean_square),
            (false, false) => f64::INFINITY,
        }
    };
    let same_length = if ours.len() == twin.len() { 0.0 } else { f64::INFINITY };
    let difference = ours.iter().zip(twin).map(difference).fold(same_length, f64::max);
    Outcome { name, difference, limit }
}

/// What a kernel computed into `len` new elements.
fn computed<T: Plain>(
    machine: &dyn Machine,
    len: usize,
    kernel: impl FnOnce(&mut SliceMut<'_, T>) -> Result<(), CudaError>,
) -> Result<Vec<T>, CudaError> {
    let mut buffer = Buffer::zeros(machine, len)?;
    kernel(&mut buffer.slice_mut())?;
    buffer.to_vec()
}
