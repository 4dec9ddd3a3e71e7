//! A kernel's source with the constants it is compiled for.
//!
//! Shapes are constants of the program and not arguments of its kernels: loops unroll, divisions
//! become multiplications, and a network needs only a few of each. Knows no compiler.

use half::bf16;

use super::super::real::{Real, Wide};
use super::memory::Plain;

/// The most constants any source has.
const MAX_CONSTANTS: usize = 12;

/// The files of `src/kernels/cuda`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `relu_lrn_pool.cu`
    ReluLrnPool,
    /// `lrn.cu`
    Lrn,
    /// `dropout.cu`
    Dropout,
    /// `update.cu`
    Update,
    /// `cross_entropy.cu`
    CrossEntropy,
    /// `finish.cu`
    Finish,
    /// `bias.cu`
    Bias,
    /// `fold.cu`
    Fold,
}

impl Source {
    /// Every one of them.
    pub const ALL: [Self; 8] = [
        Self::ReluLrnPool,
        Self::Lrn,
        Self::Dropout,
        Self::Update,
        Self::CrossEntropy,
        Self::Finish,
        Self::Bias,
        Self::Fold,
    ];

    /// The name of the file, without its ending.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ReluLrnPool => "relu_lrn_pool",
            Self::Lrn => "lrn",
            Self::Dropout => "dropout",
            Self::Update => "update",
            Self::CrossEntropy => "cross_entropy",
            Self::Finish => "finish",
            Self::Bias => "bias",
            Self::Fold => "fold",
        }
    }

    /// The text of the file and of what it stands on.
    fn texts(self) -> &'static [&'static str] {
        const REAL: &str = include_str!("real.cuh");
        const NORMALISER: &str = include_str!("normaliser.cuh");
        match self {
            Self::ReluLrnPool => &[REAL, NORMALISER, include_str!("relu_lrn_pool.cu")],
            Self::Lrn => &[REAL, NORMALISER, include_str!("lrn.cu")],
            Self::Dropout => &[REAL, include_str!("dropout.cu")],
            Self::Update => &[REAL, include_str!("update.cu")],
            Self::CrossEntropy => &[REAL, include_str!("cross_entropy.cu")],
            Self::Finish => &[REAL, include_str!("finish.cu")],
            Self::Bias => &[REAL, include_str!("bias.cu")],
            Self::Fold => &[REAL, include_str!("fold.cu")],
        }
    }

    /// The names of the constants, in the order [`Program::new`] takes their values.
    fn constants(self) -> &'static [&'static str] {
        match self {
            Self::ReluLrnPool => &[
                "CHUNK",
                "LRN_SIZE",
                "THREE_QUARTERS",
                "BIAS",
                "CHANNELS",
                "GROUP",
                "HEIGHT",
                "WIDTH",
                "WINDOW",
                "STRIDE",
                "IN_STACKS",
                "OUT_STACKS",
            ],
            Self::Lrn => &["CHUNK", "LRN_SIZE", "THREE_QUARTERS", "CHANNELS", "GROUP"],
            Self::Dropout => &["CHUNK"],
            Self::Update => &["MAX_RUNS"],
            Self::CrossEntropy => &[],
            Self::Finish => &["VALUES", "CROP"],
            Self::Bias => &["CHUNK", "CHANNELS", "STACKS", "TILE", "ABREAST"],
            Self::Fold => {
                &["CHUNK", "HEIGHT", "WIDTH", "CHANNELS", "STRIDE", "PADDING", "ROWS", "COLUMNS"]
            }
        }
    }

    /// Threads of a block: `THREADS`. Fewer where a thread holds many channels in registers.
    fn threads(self) -> u32 {
        match self {
            Self::ReluLrnPool | Self::Lrn => 128,
            Self::Dropout
            | Self::Update
            | Self::CrossEntropy
            | Self::Finish
            | Self::Bias
            | Self::Fold => 256,
        }
    }

    /// Whether a multiplication and an addition may become one operation with one rounding: not
    /// where the CPU's result is to be met bit for bit.
    fn may_contract(self) -> bool {
        !matches!(self, Self::Dropout | Self::Update | Self::Finish)
    }
}

/// A source, an element type and constants: what is compiled, loaded and cached as one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Program {
    source: Source,
    element_bits: u32,
    constants: [u32; MAX_CONSTANTS],
}

impl Program {
    /// `source` for elements `T` and the values of its constants.
    ///
    /// # Panics
    /// If their number is not that of the source.
    pub(super) fn new<T: CudaReal>(source: Source, values: &[u32]) -> Self {
        assert_eq!(values.len(), source.constants().len(), "{}: constants", source.name());
        let mut constants = [0; MAX_CONSTANTS];
        constants[..values.len()].copy_from_slice(values);
        Self { source, element_bits: T::BITS, constants }
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// Threads of a block in every launch of its kernels.
    #[must_use]
    pub fn threads(&self) -> u32 {
        self.source.threads()
    }

    /// The text to compile: CUDA C++ that includes nothing.
    #[must_use]
    pub fn text(&self) -> String {
        self.source.texts().concat()
    }

    /// `NAME=value` of every constant, the bits of an element and the threads of a block first.
    #[must_use]
    pub fn definitions(&self) -> Vec<String> {
        let common = [("ELEMENT_BITS", self.element_bits), ("THREADS", self.threads())];
        let own = self.source.constants().iter().copied().zip(self.constants);
        common.into_iter().chain(own).map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// The compiler's options besides the architecture.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let definitions =
            self.definitions().into_iter().map(|definition| format!("-D{definition}"));
        let contract = format!("--fmad={}", self.source.may_contract());
        definitions.chain(["--std=c++17".to_owned(), contract]).collect()
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.source.name(), self.definitions().join(" "))
    }
}

/// An element type that kernels are compiled for.
pub trait CudaReal: Real<Wide: CudaWide> + Plain {
    /// The bits of an element.
    const BITS: u32 = 8 * size_of::<Self>() as u32;

    /// The most elements, a power of two up to `preferred`, that a vector can have so that it
    /// divides `len`.
    fn chunk(preferred: usize, len: usize) -> u32 {
        1 << (preferred | len).trailing_zeros()
    }
}

/// A type that kernels compute in.
pub trait CudaWide: Wide + Plain + Into<f64> {}

impl CudaReal for f64 {}
impl CudaReal for f32 {}
impl CudaReal for bf16 {}
impl CudaWide for f64 {}
impl CudaWide for f32 {}
