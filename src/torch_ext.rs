//! The doors to libtorch that tch does not have. FFI: this file and `cuda` are the only ones that call
//! its C shim.
//!
//! The shim (`torch/csrc/inductor/aoti_torch/c/shim.h`) is libtorch's stable C interface, and its
//! tensor handle is tch's `C_tensor` pointer (both are `at::Tensor*`). CUDA entry points live in
//! libtorch_cuda.so and are looked up at run time, so that one binary serves machines without a GPU.
//! The file offers safe functions only and knows nothing of networks.
#![allow(unsafe_code)]

pub mod cuda;
pub mod upload;

use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Result, bail, ensure};
use tch::{Device, Tensor};
use torch_sys::C_tensor;

type Handle = *mut C_tensor;

/// The signature of `aoti_torch_{cpu,cuda}_convolution_backward` in libtorch 2.11.
type ConvolutionBackward = unsafe extern "C" fn(
    dy: Handle,
    x: Handle,
    w: Handle,
    bias_sizes: *const *const i64,
    bias_sizes_len: i64,
    stride: *const i64,
    stride_len: i64,
    padding: *const i64,
    padding_len: i64,
    dilation: *const i64,
    dilation_len: i64,
    transposed: i32,
    output_padding: *const i64,
    output_padding_len: i64,
    groups: i64,
    output_mask: *const i32,
    output_mask_len: i64,
    dx: *mut Handle,
    dw: *mut Handle,
    db: *mut Handle,
) -> i32;

unsafe extern "C" {
    fn aoti_torch_cpu_convolution_backward(
        dy: Handle,
        x: Handle,
        w: Handle,
        bias_sizes: *const *const i64,
        bias_sizes_len: i64,
        stride: *const i64,
        stride_len: i64,
        padding: *const i64,
        padding_len: i64,
        dilation: *const i64,
        dilation_len: i64,
        transposed: i32,
        output_padding: *const i64,
        output_padding_len: i64,
        groups: i64,
        output_mask: *const i32,
        output_mask_len: i64,
        dx: *mut Handle,
        dw: *mut Handle,
        db: *mut Handle,
    ) -> i32;
}

// Setters that the C shim lacks: member functions of libtorch 2.11's C++ context, by their linker
// names, with the context as first argument as both platforms' C++ ABI has it.
unsafe extern "C" {
    #[link_name = "_ZN2at13globalContextEv"]
    fn global_context() -> *mut c_void;
    #[link_name = "_ZN2at7Context17setAllowTF32CuDNNEb"]
    fn set_allow_tf32_cudnn(context: *mut c_void, allow: bool);
    #[link_name = "_ZN2at7Context18setAllowTF32CuBLASEb"]
    fn set_allow_tf32_cublas(context: *mut c_void, allow: bool);
    #[link_name = "_ZN2at7Context19setUserEnabledCuDNNEb"]
    fn set_user_enabled_cudnn(context: *mut c_void, enabled: bool);
    #[link_name = "_ZN2at7Context17setBenchmarkCuDNNEb"]
    fn set_benchmark_cudnn(context: *mut c_void, benchmark: bool);
    #[link_name = "_ZN2at7Context21setDeterministicCuDNNEb"]
    fn set_deterministic_cudnn(context: *mut c_void, deterministic: bool);
}

/// The gradients of a convolution: with respect to its weights and, if asked for, its input and its bias.
pub struct ConvGradients {
    /// `[N, C, H, W]`, or nothing where the caller did not need it.
    pub dx: Option<Tensor>,
    /// `[O, C / groups, K, K]`.
    pub dw: Tensor,
    /// `[O]`, or nothing where the caller did not need it.
    pub db: Option<Tensor>,
}

/// Whether the gradient with respect to the input is computed; the first layer has no use for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputGradient {
    /// Computed.
    Needed,
    /// Left out.
    Unused,
}

/// Whether the gradient with respect to the bias is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BiasGradient {
    /// Computed.
    Needed,
    /// Left to somebody else.
    Unused,
}

/// The geometry of a square two-dimensional convolution without dilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Step between windows, in pixels.
    pub stride: i64,
    /// Zeros added on each side, in pixels.
    pub padding: i64,
    /// Groups of channels that do not see each other.
    pub groups: i64,
}

/// The backward pass of `x.conv2d(w, b)` for `dy`, all in libtorch's logical NCHW order.
///
/// # Errors
/// If libtorch refuses the shapes, or has no such kernel for the tensors' device.
pub fn convolution_backward(
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    geometry: ConvGeometry,
    input: InputGradient,
    bias: BiasGradient,
) -> Result<ConvGradients> {
    let call = match x.device() {
        Device::Cuda(_) => cuda_convolution_backward()?,
        _ => aoti_torch_cpu_convolution_backward as ConvolutionBackward,
    };
    let bias_size = [w.size()[0]];
    let bias_sizes = bias_size.as_ptr();
    let stride = [geometry.stride; 2];
    let padding = [geometry.padding; 2];
    let (dilation, output_padding) = ([1i64; 2], [0i64; 2]);
    let (input, bias) = (input == InputGradient::Needed, bias == BiasGradient::Needed);
    let mask = [i32::from(input), 1, i32::from(bias)];
    let mut out: [Handle; 3] = [std::ptr::null_mut(); 3];
    let [dx, dw, db] = &mut out;
    // SAFETY: handles are live at::Tensor pointers borrowed for the call, which does not write to
    // them; arrays outlive the call and are passed with their lengths; the three results are new
    // handles that `adopt` takes over.
    let code = unsafe {
        call(
            dy.as_ptr().cast_mut(),
            x.as_ptr().cast_mut(),
            w.as_ptr().cast_mut(),
            &raw const bias_sizes,
            1,
            stride.as_ptr(),
            2,
            padding.as_ptr(),
            2,
            dilation.as_ptr(),
            2,
            0,
            output_padding.as_ptr(),
            2,
            geometry.groups,
            mask.as_ptr(),
            3,
            dx,
            dw,
            db,
        )
    };
    ensure!(
        code == 0,
        "libtorch refused the backward of a convolution: x {:?}, w {:?}, dy {:?}, {geometry:?} (its own message is above)",
        x.size(),
        w.size(),
        dy.size(),
    );
    let [dx, dw, db] = out.map(adopt);
    let Some(dw) = dw else { bail!("libtorch returned no gradient for a convolution's weights") };
    let [dx, db] = [dx, db].map(|gradient| gradient.filter(Tensor::defined));
    Ok(ConvGradients { dx, dw, db })
}

/// `x.conv2d(w)` into `y`, all in libtorch's logical NCHW order: without a copy where cuDNN computes it.
///
/// # Errors
/// If libtorch refuses the shapes.
pub fn convolution_into(
    x: &Tensor,
    w: &Tensor,
    geometry: ConvGeometry,
    y: &mut Tensor,
) -> Result<()> {
    let ConvGeometry { stride, padding, groups } = geometry;
    let (stride, padding, dilation) = ([stride; 2], [padding; 2], [1; 2]);
    let algorithms = algorithms();
    if matches!(x.device(), Device::Cuda(_)) && algorithms != Algorithms::Exact {
        let fastest = algorithms == Algorithms::Fastest;
        let tf32 = products() == Products::Tf32;
        let _ = x.f_cudnn_convolution_out(
            y, w, padding, stride, dilation, groups, fastest, !fastest, tf32,
        )?;
    } else {
        y.f_copy_(&x.f_conv2d(w, None::<&Tensor>, stride, padding, dilation, groups)?)?;
    }
    Ok(())
}

/// Takes ownership of a handle the shim returned.
fn adopt(handle: Handle) -> Option<Tensor> {
    // SAFETY: a non-null result of the shim is a new at::Tensor that the caller owns.
    (!handle.is_null()).then(|| unsafe { Tensor::from_ptr(handle) })
}

fn cuda_convolution_backward() -> Result<ConvolutionBackward> {
    static FOUND: OnceLock<Option<ConvolutionBackward>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        // SAFETY: looks a name up among the libraries already loaded; nothing is called.
        let symbol = unsafe {
            libc::dlsym(libc::RTLD_DEFAULT, c"aoti_torch_cuda_convolution_backward".as_ptr())
        };
        // SAFETY: libtorch 2.11 exports the function under this name with the CPU twin's signature.
        (!symbol.is_null())
            .then(|| unsafe { std::mem::transmute::<*mut c_void, ConvolutionBackward>(symbol) })
    });
    match found {
        Some(function) => Ok(*function),
        None => {
            bail!("libtorch_cuda.so is not loaded; install it with scripts/get-libtorch --cuda")
        }
    }
}

/// Loads libtorch's CUDA half, which registers its kernels; `Err` is the loader's own message.
///
/// # Errors
/// If the library, or one it depends on, is not there.
pub fn load_cuda() -> std::result::Result<(), String> {
    static LOADED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    LOADED
        .get_or_init(|| {
            let open = |name: &CStr| {
                // SAFETY: runs the library's constructors, which register kernels at most.
                unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }
            };
            // libtorch then takes the NCCL that is already there, so that the process has one: the first
            // on LD_LIBRARY_PATH, or libtorch's own. Without it libtorch says itself what is missing.
            open(c"libnccl.so");
            let handle = open(c"libtorch_cuda.so");
            if !handle.is_null() {
                return Ok(());
            }
            // SAFETY: dlerror returns a NUL-terminated string, or null, valid until the next call.
            let message: *const c_char = unsafe { libc::dlerror() };
            if message.is_null() {
                return Err("unknown reason".to_owned());
            }
            // SAFETY: checked non-null above.
            Err(unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned())
        })
        .clone()
}

/// How GPUs multiply 32-bit floats in matrix products and convolutions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// With all their bits.
    Exact,
    /// With 10 of the 23 bits of the fraction, on tensor cores: several times as fast.
    Tf32,
}

// libtorch's own getter throws where its flags contradict each other.
static PRODUCTS: Mutex<Products> = Mutex::new(Products::Exact);

/// Chooses for the whole process; libtorch itself would use the shorter ones in convolutions only.
pub fn set_products(products: Products) {
    let tf32 = products == Products::Tf32;
    *PRODUCTS.lock().unwrap_or_else(PoisonError::into_inner) = products;
    // SAFETY: the context lives as long as the process; the setters write one flag each.
    unsafe {
        let context = global_context();
        set_allow_tf32_cudnn(context, tf32);
        set_allow_tf32_cublas(context, tf32);
    }
}

/// What was chosen.
#[must_use]
pub fn products() -> Products {
    *PRODUCTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which algorithms compute convolutions on GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithms {
    /// The fastest of those cuDNN has, by trying them when it first sees a shape. Some add numbers up in
    /// the order in which they come.
    Fastest,
    /// Those of cuDNN's that give the same bits in every run.
    Deterministic,
    /// libtorch's own, which unfold the map and multiply matrices: the same bits in every run, and all the bits
    /// that 32-bit floats have, of which some of cuDNN's lose a few. Slow.
    Exact,
}

static ALGORITHMS: Mutex<Algorithms> = Mutex::new(Algorithms::Deterministic);

/// What was chosen.
#[must_use]
pub fn algorithms() -> Algorithms {
    *ALGORITHMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Chooses for the whole process.
pub fn set_algorithms(algorithms: Algorithms) {
    *ALGORITHMS.lock().unwrap_or_else(PoisonError::into_inner) = algorithms;
    let fastest = algorithms == Algorithms::Fastest;
    // SAFETY: as in `set_products`.
    unsafe {
        let context = global_context();
        set_user_enabled_cudnn(context, algorithms != Algorithms::Exact);
        set_benchmark_cudnn(context, fastest);
        set_deterministic_cudnn(context, !fastest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn convolution_backward_equals_autograd() {
        let options = (Kind::Double, Device::Cpu);
        let x = Tensor::randn([2, 4, 9, 9], options).set_requires_grad(true);
        let w = Tensor::randn([6, 2, 3, 3], options).set_requires_grad(true);
        let b = Tensor::randn([6], options).set_requires_grad(true);
        let y = x.conv2d(&w, Some(&b), [2, 2], [1, 1], [1, 1], 2);
        let dy = Tensor::randn_like(&y);
        (&y * &dy).sum(Kind::Double).backward();
        let geometry = ConvGeometry { stride: 2, padding: 1, groups: 2 };
        let (input, bias) = (InputGradient::Needed, BiasGradient::Needed);
        let got = convolution_backward(&dy, &x.detach(), &w.detach(), geometry, input, bias)
            .expect("shapes agree");
        let (dx, db) = (got.dx.expect("asked for"), got.db.expect("asked for"));
        for (ours, theirs) in [(&dx, x.grad()), (&got.dw, w.grad()), (&db, b.grad())] {
            let difference = (ours - theirs).abs().max().double_value(&[]);
            assert!(difference < 1e-12, "{difference}");
        }
    }

    #[test]
    fn shapes_that_disagree_are_an_error() {
        let options = (Kind::Float, Device::Cpu);
        let (x, w) = (Tensor::zeros([1, 2, 5, 5], options), Tensor::zeros([3, 2, 3, 3], options));
        let geometry = ConvGeometry { stride: 1, padding: 0, groups: 1 };
        let dy = Tensor::zeros([1, 7, 3, 3], options);
        let (input, bias) = (InputGradient::Unused, BiasGradient::Unused);
        assert!(convolution_backward(&dy, &x, &w, geometry, input, bias).is_err());
    }
}
