//! The door to NCCL and to CUDA's streams. FFI: the only file that calls NCCL.
//!
//! cudarc loads both libraries when they are first called, and panics if one is missing: [`usable`] asks
//! first. Its `Comm` can neither be aborted from another thread nor asked for errors, hence the type here.
//! Everything offered is safe as long as a buffer's tensor outlives the operation on the stream, which the
//! caller sees to.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Arc, OnceLock};

use anyhow::{Result, bail, ensure};
use cudarc::driver::{self, CudaStream};
use cudarc::nccl::{result, sys};
use tch::{Device, Kind, Tensor};

use crate::torch_ext::cuda;

/// The oldest release cudarc knows. The latest of what is called here, `ncclCommFinalize`, came with 2.14;
/// libtorch 2.11 brings 2.28.9.
const NEEDED: Version = Version::new(2, 18, 0);
/// The first to let several ranks share a GPU.
const SHARES_GPUS: Version = Version::new(2, 30, 0);

/// A version of NCCL, as it numbers itself: 22809 is 2.28.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(c_int);

impl Version {
    /// A release by the parts of its name.
    #[must_use]
    pub const fn new(major: c_int, minor: c_int, patch: c_int) -> Self {
        Self(major * 10_000 + minor * 100 + patch)
    }

    /// Whether several ranks may be put on one GPU, if `NCCL_MULTI_RANK_GPU_ENABLE=1` is set.
    #[must_use]
    pub fn shares_gpus(self) -> bool {
        self >= SHARES_GPUS
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0 / 10_000, self.0 / 100 % 100, self.0 % 100)
    }
}

/// Why NCCL cannot be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The library is not there.
    #[error(
        "no libnccl.so (looked in LD_LIBRARY_PATH, {} and the system's folders)",
        option_env!("LIBTORCH_LIB").unwrap_or("the folder of libtorch")
    )]
    NoLibrary,
    /// The library lacks what is called here.
    #[error("libnccl.so is NCCL {0}, older than {NEEDED}")]
    TooOld(Version),
    /// The library does not answer.
    #[error("libnccl.so does not tell its version")]
    Mute,
    /// There is nothing to use it on.
    #[error("no NVIDIA driver (libcuda.so.1)")]
    NoDriver,
}

/// The version of NCCL, if it can be used; checked once.
///
/// # Errors
/// If a library is missing or too old.
pub fn usable() -> Result<Version, Unusable> {
    static FOUND: OnceLock<Result<Version, Unusable>> = OnceLock::new();
    FOUND.get_or_init(look).clone()
}

fn look() -> Result<Version, Unusable> {
    // SAFETY: opens libraries by name, which runs their constructors and nothing else.
    let (has_nccl, has_cuda) =
        unsafe { (sys::is_culib_present(), driver::sys::is_culib_present()) };
    if !has_nccl {
        return Err(Unusable::NoLibrary);
    }
    let version = result::get_nccl_version().map(Version).map_err(|_| Unusable::Mute)?;
    match (version < NEEDED, has_cuda) {
        (true, _) => Err(Unusable::TooOld(version)),
        (false, false) => Err(Unusable::NoDriver),
        (false, true) => Ok(version),
    }
}

/// What NCCL said when it refused a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {what} ({detail})")]
pub struct NcclError {
    call: &'static str,
    what: String,
    detail: String,
}

fn check(call: &'static str, code: sys::ncclResult_t) -> Result<(), NcclError> {
    match code {
        sys::ncclResult_t::ncclSuccess => Ok(()),
        code => Err(NcclError { call, what: describe(code), detail: last_error() }),
    }
}

fn describe(code: sys::ncclResult_t) -> String {
    // SAFETY: returns a string that lives as long as the library, for any code.
    text(unsafe { sys::ncclGetErrorString(code) })
}

fn last_error() -> String {
    // SAFETY: null asks for the last error of any communicator; the answer is a static buffer.
    text(unsafe { sys::ncclGetLastError(std::ptr::null_mut()) })
}

fn text(message: *const c_char) -> String {
    if message.is_null() {
        return "no message".to_owned();
    }
    // SAFETY: NCCL's messages are NUL-terminated and never freed.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    if message.is_empty() { "no details".to_owned() } else { message.trim().to_owned() }
}

/// What the ranks of one group have in common before they meet.
#[derive(Clone, Copy, Debug)]
pub(super) struct UniqueId(sys::ncclUniqueId);

impl UniqueId {
    /// An identifier for a new group.
    ///
    /// # Errors
    /// If NCCL cannot be used, or finds no way for ranks to meet.
    pub(super) fn new() -> Result<Self> {
        usable()?;
        let mut id = sys::ncclUniqueId { internal: [0; 128] };
        // SAFETY: `id` outlives the call, which fills it in.
        check("ncclGetUniqueId", unsafe { sys::ncclGetUniqueId(&raw mut id) })?;
        Ok(Self(id))
    }
}

/// The elements of a contiguous tensor on a GPU. Whoever makes one keeps the tensor alive until the
/// operation it is passed to has ended on its stream.
#[derive(Clone, Copy)]
pub(super) struct Buffer {
    at: *mut c_void,
    len: usize,
    kind: Kind,
}

impl Buffer {
    /// The elements of `x`.
    ///
    /// # Errors
    /// If they are not in one piece on `device`.
    pub(super) fn of(x: &Tensor, device: Device) -> Result<Self> {
        ensure!(
            x.device() == device && x.is_contiguous(),
            "NCCL sends contiguous tensors on {device:?}; this one is on {:?}, {:?}",
            x.device(),
            x.size()
        );
        Ok(Self { at: x.data_ptr(), len: x.numel(), kind: x.kind() })
    }

    /// How to count the elements if they are only to be moved: as bytes.
    fn bytes(self) -> usize {
        self.len * self.kind.elt_size_in_bytes()
    }

    /// NCCL's name for elements that it is to add.
    fn addend(self) -> Result<sys::ncclDataType_t> {
        Ok(match self.kind {
            Kind::Float => sys::ncclDataType_t::ncclFloat32,
            Kind::BFloat16 => sys::ncclDataType_t::ncclBfloat16,
            Kind::Double => sys::ncclDataType_t::ncclFloat64,
            Kind::Int64 => sys::ncclDataType_t::ncclInt64,
            other => bail!("NCCL is not asked to add elements of kind {other:?}"),
        })
    }
}

/// A device with the stream that libtorch computes on, and one beside it for what travels.
///
/// All communicators of a rank share the second stream: NCCL's kernels wait for their peers, and two of
/// them that start in different orders on different GPUs would wait for ever.
pub struct Streams {
    /// Where the tensors lie.
    pub(super) device: Device,
    pub(super) torch: Arc<CudaStream>,
    pub(super) travel: Arc<CudaStream>,
}

impl Streams {
    /// This thread's streams on GPU `device`: libtorch's current one, and a new one beside it.
    ///
    /// # Errors
    /// If the device cannot be had.
    pub fn new(device: usize) -> Result<Self> {
        usable()?;
        let torch = cuda::borrowed_stream(device)?;
        let travel = torch.context().new_stream()?;
        Ok(Self::of(Device::Cuda(device), torch, travel))
    }

    /// Two streams of one device, where the tensors on `device` are computed on `torch`.
    #[must_use]
    pub fn of(device: Device, torch: Arc<CudaStream>, travel: Arc<CudaStream>) -> Self {
        Self { device, torch, travel }
    }

    fn raw(&self) -> sys::cudaStream_t {
        self.travel.cu_stream().cast()
    }
}

/// One rank's communicator. One thread at a time may use it.
pub(super) struct Communicator(sys::ncclComm_t);

// SAFETY: NCCL ties a communicator to a device, not to a thread.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Joins the group of `id` as `rank` of `size`, on the thread's current device. Waits for all others.
    ///
    /// # Errors
    /// NCCL's.
    pub(super) fn join(id: UniqueId, rank: usize, size: usize) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` outlives the call, which fills it in; the rest are values.
        let code =
            unsafe { sys::ncclCommInitRank(&raw mut raw, size as c_int, id.0, rank as c_int) };
        check("ncclCommInitRank", code)?;
        Ok(Self(raw))
    }

    /// Sums `x` over all ranks, in place.
    ///
    /// # Errors
    /// NCCL's.
    pub(super) fn all_reduce(&self, x: Buffer, streams: &Streams) -> Result<()> {
        let (kind, sum) = (x.addend()?, sys::ncclRedOp_t::ncclSum);
        // SAFETY: the buffer has `len` elements and outlives the operation; the communicator is live.
        let code =
            unsafe { sys::ncclAllReduce(x.at, x.at, x.len, kind, sum, self.0, streams.raw()) };
        Ok(check("ncclAllReduce", code)?)
    }

    /// Fills `out` with every rank's `shard`; the lengths are the caller's to check.
    ///
    /// # Errors
    /// NCCL's.
    pub(super) fn all_gather(&self, shard: Buffer, out: Buffer, streams: &Streams) -> Result<()> {
        let (len, kind) = (shard.bytes(), sys::ncclDataType_t::ncclUint8);
        // SAFETY: as in `all_reduce`; `out` has room for `size` shards.
        let code =
            unsafe { sys::ncclAllGather(shard.at, out.at, len, kind, self.0, streams.raw()) };
        Ok(check("ncclAllGather", code)?)
    }

    /// Fills `out` with this rank's part of the sum of `x`; the lengths are the caller's to check.
    ///
    /// # Errors
    /// NCCL's.
    pub(super) fn reduce_scatter(&self, x: Buffer, out: Buffer, streams: &Streams) -> Result<()> {
        let (kind, sum) = (out.addend()?, sys::ncclRedOp_t::ncclSum);
        // SAFETY: as in `all_reduce`; `x` has `size` times the elements of `out`.
        let code = unsafe {
            sys::ncclReduceScatter(x.at, out.at, out.len, kind, sum, self.0, streams.raw())
        };
        Ok(check("ncclReduceScatter", code)?)
    }

    /// Sends part `i` of `x` to rank `i` and fills `out` with the parts received; the lengths are the
    /// caller's to check.
    ///
    /// # Errors
    /// NCCL's.
    pub(super) fn all_to_all(
        &self,
        x: Buffer,
        out: Buffer,
        size: usize,
        streams: &Streams,
    ) -> Result<()> {
        let (part, kind) = (x.bytes() / size, sys::ncclDataType_t::ncclUint8);
        let exchange = |peer: usize| -> Result<(), NcclError> {
            // SAFETY: as in `all_reduce`; part `peer` of `size` lies inside both buffers.
            unsafe {
                let (from, to) = (x.at.byte_add(peer * part), out.at.byte_add(peer * part));
                let (peer, comm, stream) = (peer as c_int, self.0, streams.raw());
                check("ncclSend", sys::ncclSend(from, part, kind, peer, comm, stream))?;
                check("ncclRecv", sys::ncclRecv(to, part, kind, peer, comm, stream))
            }
        };
        // SAFETY: has no preconditions; opens the group that is closed below in every case.
        check("ncclGroupStart", unsafe { sys::ncclGroupStart() })?;
        let issued = (0..size).try_for_each(exchange);
        // SAFETY: closes the group opened above.
        let closed = check("ncclGroupEnd", unsafe { sys::ncclGroupEnd() });
        Ok(issued.and(closed)?)
    }

    /// Replaces `x` by that of rank `root`.
    ///
    /// # Errors
    /// NCCL's.
    pub(super) fn broadcast(&self, x: Buffer, root: usize, streams: &Streams) -> Result<()> {
        let (len, kind) = (x.bytes(), sys::ncclDataType_t::ncclUint8);
        // SAFETY: as in `all_reduce`.
        let code = unsafe {
            sys::ncclBroadcast(x.at, x.at, len, kind, root as c_int, self.0, streams.raw())
        };
        Ok(check("ncclBroadcast", code)?)
    }

    /// The error that the communicator has run into by itself, if any.
    #[must_use]
    pub(super) fn error(&self) -> Option<String> {
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the communicator is live and `state` outlives the call.
        let code = unsafe { sys::ncclCommGetAsyncError(self.0, &raw mut state) };
        let found = check("ncclCommGetAsyncError", code).and(match state {
            sys::ncclResult_t::ncclInProgress => Ok(()),
            state => check("NCCL", state),
        });
        found.err().map(|error| error.to_string())
    }

    /// Ends the group in good order, together with the other ranks.
    ///
    /// # Errors
    /// NCCL's.
    pub(super) fn finish(self) -> Result<()> {
        // SAFETY: the communicator is live, and gone afterwards.
        unsafe {
            check("ncclCommFinalize", sys::ncclCommFinalize(self.0))?;
            check("ncclCommDestroy", sys::ncclCommDestroy(self.0))?;
        }
        Ok(())
    }

    /// Ends it at once, with the operations under way.
    ///
    /// # Errors
    /// NCCL's.
    pub(super) fn abort(self) -> Result<()> {
        // SAFETY: the communicator is live, and gone afterwards.
        Ok(check("ncclCommAbort", unsafe { sys::ncclCommAbort(self.0) })?)
    }
}
