//! NCCL and CUDA's streams on the CPU, and a group as a GPU would use it. FFI: loads what it compiled, and
//! writes tensors late.
//!
//! What calls NCCL, how it is ordered with what is computed, and how it ends is the program's own; see
//! `cuda.cpp` and `nccl.cpp` for what this cannot show.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alexnet_mgpu::collective::Collective;
use alexnet_mgpu::collective::nccl::Nccl;
use alexnet_mgpu::torch_ext::cuda::call_host;
use anyhow::Result;
use cudarc::driver::{CudaContext, CudaStream};
use tch::Tensor;

/// How long after the host a stream computes: a reader who does not wait for it finds nothing.
const LAG: Duration = Duration::from_micros(200);

/// A new stream of an emulated GPU, which is another for each number below eight.
pub(crate) fn stream(gpu: usize) -> Arc<CudaStream> {
    load();
    let context = CudaContext::new(gpu).expect("an emulated GPU");
    context.new_stream().expect("a thread for it")
}

/// Compiles and loads both libraries, once. The dynamic linker has one library of a name: whoever opens
/// `libnccl.so` later gets ours.
fn load() {
    static LOADED: OnceLock<()> = OnceLock::new();
    LOADED.get_or_init(|| {
        let folder = tempfile::tempdir().expect("temporary folder");
        let cuda = compile("cuda.cpp", "libcuda.so", &folder.path().join("libcuda.so"), &[]);
        let nccl = folder.path().join("libnccl.so");
        let nccl = compile("nccl.cpp", "libnccl.so", &nccl, std::slice::from_ref(&cuda));
        for library in [cuda, nccl] {
            let path = CString::new(library.as_os_str().as_encoded_bytes()).expect("no NUL");
            // SAFETY: opens a library of our own, whose constructors make empty tables. It is never closed.
            let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
            assert!(!handle.is_null(), "{} does not load", library.display());
        }
    });
}

fn compile(source: &str, name: &str, library: &Path, uses: &[PathBuf]) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nccl_emulation");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-std=c++17", "-O1", "-shared", "-fPIC", "-pthread"]);
    command.arg(format!("-Wl,-soname,{name}")).arg(folder.join(source)).args(uses);
    let status = command.arg("-o").arg(library).status();
    let status = status.unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(status.success(), "{compiler} refused {source}");
    library.to_owned()
}

/// The memory of a tensor, to be written by a stream.
struct Memory(*mut u8);

// SAFETY: only the stream writes there until it has been waited for.
unsafe impl Send for Memory {}

/// A group whose rank computes on a stream that lags behind the host: what goes into an operation is there
/// when the stream comes to it, and what comes out is looked at when the stream, and it alone, has come
/// past. Tensors lie in the host's memory.
pub(crate) struct Lagging {
    pub(crate) group: Nccl,
    pub(crate) torch: Arc<CudaStream>,
    /// As libtorch keeps memory for the stream that used it.
    kept: RefCell<Vec<Tensor>>,
}

impl Lagging {
    pub(crate) fn new(group: Nccl, torch: Arc<CudaStream>) -> Self {
        Self { group, torch, kept: RefCell::default() }
    }

    /// Lets the values of `x` be computed by the stream, later.
    fn late(&self, x: &Tensor) {
        let (at, num_bytes) = (x.data_ptr().cast::<u8>(), x.numel() * x.kind().elt_size_in_bytes());
        // SAFETY: a contiguous tensor in the host's memory.
        let values = unsafe { std::slice::from_raw_parts(at, num_bytes) }.to_vec();
        // SAFETY: as above. All bits set are NaN, or a number that nobody expects.
        unsafe { at.write_bytes(0xff, num_bytes) };
        let memory = Memory(at);
        self.kept.borrow_mut().push(x.shallow_clone());
        let come = call_host(&self.torch, move || {
            let memory = memory;
            std::thread::sleep(LAG);
            // SAFETY: as above; the tensor is kept until the stream has come past.
            unsafe { memory.0.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        });
        come.expect("the stream takes it");
    }

    /// Waits for the stream, as reading a tensor does.
    fn settle(&self) {
        self.torch.synchronize().expect("the stream goes on");
        self.kept.borrow_mut().clear();
    }

    fn whole(&self, late: &Tensor, operation: impl FnOnce() -> Result<()>) -> Result<()> {
        self.late(late);
        let result = operation();
        self.settle();
        result
    }

    fn begin(
        &self,
        late: &Tensor,
        out: &mut Tensor,
        operation: impl FnOnce(&mut Tensor) -> Result<()>,
    ) -> Result<()> {
        self.late(late);
        self.kept.borrow_mut().push(out.shallow_clone());
        operation(out)
    }
}

impl Collective for Lagging {
    fn rank(&self) -> usize {
        self.group.rank()
    }
    fn size(&self) -> usize {
        self.group.size()
    }
    fn all_reduce(&self, x: &mut Tensor) -> Result<()> {
        let late = x.shallow_clone();
        self.whole(&late, || self.group.all_reduce(x))
    }
    fn all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()> {
        self.whole(shard, || self.group.all_gather(shard, out))
    }
    fn reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.whole(x, || self.group.reduce_scatter(x, out))
    }
    fn all_to_all(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.whole(x, || self.group.all_to_all(x, out))
    }
    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()> {
        let late = x.shallow_clone();
        self.whole(&late, || self.group.broadcast(x, root))
    }
    fn begin_all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()> {
        self.begin(shard, out, |out| self.group.begin_all_gather(shard, out))
    }
    fn begin_reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.begin(x, out, |out| self.group.begin_reduce_scatter(x, out))
    }
    fn begin_all_to_all(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.begin(x, out, |out| self.group.begin_all_to_all(x, out))
    }
    fn flush(&self) -> Result<()> {
        let result = self.group.flush();
        self.settle();
        result
    }
    fn sent_bytes(&self) -> u64 {
        self.group.sent_bytes()
    }
}
