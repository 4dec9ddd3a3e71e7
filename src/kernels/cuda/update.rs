//! The optimisers' updates on the GPU: `update.cu` beside [`Momentum`] and [`Adam`], bit for bit.
//!
//! Runs of weights and of biases, each with its own rate and decay, are updated by one launch.

use half::bf16;

use super::error::CudaError;
use super::launch::{Engine, Launch};
use super::memory::{Argument, Slice, SliceMut, argument};
use super::program::{CudaReal, Program, Source};
use crate::kernels::real::{Real, Wide};
use crate::kernels::update::{Adam, Momentum};

/// Elements a thread updates at a time.
const LANES: usize = 4;

/// Runs of one launch; its parameters have to fit four kilobytes.
const MAX_RUNS: usize = 32;

/// Blocks that fill a large GPU: eight for each of its processors.
const MAX_BLOCKS: usize = 132 * 8;

/// A run of elements and what it is updated with.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Where it begins in the gradient, and in the copy.
    pub gradient: usize,
    /// Where it begins in the weights.
    pub weight: usize,
    /// Where it begins in the optimiser's state.
    pub state: usize,
    /// Its elements.
    pub len: usize,
    /// The learning rate.
    pub lr: f64,
    /// The weight decay.
    pub decay: f64,
}

/// What an update by gradients of elements `G` reads and writes; weights and state are in what `G` is
/// computed in.
pub struct Arrays<'a, G: Real> {
    /// The weights.
    pub weights: SliceMut<'a, G::Wide>,
    /// The optimiser's state: the velocity, or both moments.
    pub state: Vec<SliceMut<'a, G::Wide>>,
    /// The gradient.
    pub gradient: Slice<'a, G>,
    /// The weights in bfloat16, where they are wanted; as long as the gradient.
    pub copy: Option<SliceMut<'a, bf16>>,
}

/// The update of [`Momentum`] on each of `runs`, with its own rate and decay for the rule's.
///
/// # Errors
/// If the kernel cannot be compiled or started, or an array or a run does not begin
/// where vectors do.
///
/// # Panics
/// If a run does not lie in the arrays, or there is not one state.
pub fn momentum<G: CudaReal>(
    on: &dyn Engine,
    momentum: f64,
    arrays: &mut Arrays<'_, G>,
    runs: &[Run],
) -> Result<(), CudaError> {
    let factor = <G as Real>::Wide::from_f64(momentum);
    let rates = |run: &Run| [run.lr, Momentum { momentum, lr: run.lr, decay: run.decay }.shrink()];
    launch(on, c"momentum", arrays, 1, &[argument(&factor)], runs, rates)
}

/// The update of [`Adam`] on each of `runs`, with its own rate and decay for the rule's.
///
/// # Errors
/// As [`momentum()`].
///
/// # Panics
/// As [`momentum()`], with two states; or if the rule's step is 0.
pub fn adam<G: CudaReal>(
    on: &dyn Engine,
    rule: &Adam,
    arrays: &mut Arrays<'_, G>,
    runs: &[Run],
) -> Result<(), CudaError> {
    let factors = rule.factors().map(<G as Real>::Wide::from_f64);
    let factors: Vec<_> = factors.iter().map(argument).collect();
    let rates = |run: &Run| [Adam { lr: run.lr, ..*rule }.unbiased_rate(), run.decay];
    launch(on, c"adam", arrays, 2, &factors, runs, rates)
}

fn launch<G: CudaReal>(
    on: &dyn Engine,
    entry: &'static std::ffi::CStr,
    arrays: &mut Arrays<'_, G>,
    num_states: usize,
    factors: &[Argument<'_>],
    runs: &[Run],
    rates: impl Fn(&Run) -> [f64; 2],
) -> Result<(), CudaError> {
    assert_eq!(arrays.state.len(), num_states, "update: states");
    for runs in runs.chunks(MAX_RUNS) {
        check(arrays, runs)?;
        let (mut places, mut all_rates) = ([[0u64; 4]; MAX_RUNS], [[G::Wide::ZERO; 2]; MAX_RUNS]);
        for ((place, rate), run) in places.iter_mut().zip(&mut all_rates).zip(runs) {
            *place = [run.gradient, run.weight, run.state, run.len].map(|at| at as u64);
            *rate = rates(run).map(<G as Real>::Wide::from_f64);
        }
        let longest = runs.iter().map(|run| run.len).max().unwrap_or(0);
        let program = Program::new::<G>(Source::Update, &[MAX_RUNS as u32]);
        let across = longest.div_ceil(LANES * program.threads() as usize).min(MAX_BLOCKS);
        let none = SliceMut::none();
        let mut arguments = vec![arrays.weights.argument()];
        arguments.extend(arrays.state.iter().map(SliceMut::argument));
        arguments.push(arrays.gradient.argument());
        arguments.push(arrays.copy.as_ref().unwrap_or(&none).argument());
        arguments.extend(factors);
        arguments.extend([argument(&places), argument(&all_rates)]);
        let grid = [across as u32, runs.len() as u32];
        on.launch(&Launch::of_blocks(grid, program, entry, &arguments))?;
    }
    Ok(())
}

/// Refuses runs that leave the arrays, and those that vectors cannot start at.
fn check<G: CudaReal>(arrays: &Arrays<'_, G>, runs: &[Run]) -> Result<(), CudaError> {
    let inside = |at: usize, run: &Run, len: usize| {
        assert!(at.checked_add(run.len).is_some_and(|end| end <= len), "update: {run:?} of {len}");
    };
    for run in runs {
        inside(run.gradient, run, arrays.gradient.len());
        inside(run.weight, run, arrays.weights.len());
        arrays.state.iter().for_each(|state| inside(run.state, run, state.len()));
        if let Some(copy) = &arrays.copy {
            inside(run.gradient, run, copy.len());
        }
        for at in [run.gradient, run.weight, run.state] {
            if !at.is_multiple_of(LANES) {
                return Err(CudaError::MisalignedRun { element: at, multiple: LANES });
            }
        }
    }
    arrays.weights.check_aligned(LANES)?;
    arrays.gradient.check_aligned(LANES)?;
    arrays.state.iter().try_for_each(|state| state.check_aligned(LANES))?;
    arrays.copy.as_ref().map_or(Ok(()), |copy| copy.check_aligned(LANES))
}
