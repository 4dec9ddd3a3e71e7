//! The CUDA kernels without a GPU: NVRTC compiles them all, and an emulator runs them against their
//! CPU twins. `make test-gpu` runs the same checks on the first GPU.

mod cuda_emulation;

use std::collections::HashSet;
use std::ffi::CStr;

use alexnet_mgpu::config::{DeviceChoice, Gpus};
use alexnet_mgpu::kernels::cuda::check::{self, Outcome};
use alexnet_mgpu::kernels::cuda::compile::{Capability, available, image};
use alexnet_mgpu::kernels::cuda::program::Source;
use alexnet_mgpu::kernels::cuda::{
    Buffer, CudaError, Program, cache::Cache, relu_lrn_pool, update,
};
use alexnet_mgpu::kernels::lrn::Lrn;
use alexnet_mgpu::kernels::pool::{Map, MaxPool};
use alexnet_mgpu::kernels::relu_lrn_pool::ReluLrnPool;
use alexnet_mgpu::kernels::stacks::Stacks;
use alexnet_mgpu::{device, kernel_check};
use cuda_emulation::{Emulator, Mode, compile_all};
use rayon::prelude::*;

/// Ampere, Hopper and Blackwell.
const CAPABILITIES: [Capability; 3] = [
    Capability { major: 8, minor: 0 },
    Capability { major: 9, minor: 0 },
    Capability { major: 10, minor: 0 },
];

/// What the checks compile.
fn programs() -> Vec<(Program, Vec<&'static CStr>)> {
    let recorder = Emulator::new(Mode::Record);
    check::all(&recorder).expect("nothing is compiled");
    recorder.recorded()
}

fn assert_all_agree(outcomes: Result<Vec<Outcome>, CudaError>) {
    let outcomes = outcomes.unwrap_or_else(|error| panic!("{error}"));
    let wrong: Vec<_> = outcomes.iter().filter(|outcome| !outcome.is_ok()).collect();
    assert!(wrong.is_empty() && !outcomes.is_empty(), "{wrong:#?}");
}

/// All programs for all capabilities.
fn compilations() -> Vec<(Capability, Program, Vec<&'static CStr>)> {
    let on = |(program, entries): (Program, Vec<&'static CStr>)| {
        CAPABILITIES.map(|capability| (capability, program, entries.clone()))
    };
    programs().into_iter().flat_map(on).collect()
}

#[test]
fn nvrtc_compiles_every_kernel_for_ampere_hopper_and_blackwell() {
    available().unwrap_or_else(|error| panic!("{error}"));
    let compilations = compilations();
    let sources: HashSet<_> = compilations.iter().map(|(_, p, _)| p.source()).collect();
    assert_eq!(sources.len(), Source::ALL.len(), "a source without a check");
    let folder = tempfile::tempdir().expect("temporary folder");
    let cache = Cache::at(folder.path().to_owned());
    compilations.par_iter().for_each(|(capability, program, entries)| {
        let image = image(program, *capability, &cache).unwrap_or_else(|error| panic!("{error}"));
        assert!(image.starts_with(b"\x7fELF"), "{program:?} is machine code");
        for entry in entries {
            let found = image.windows(entry.to_bytes().len()).any(|w| w == entry.to_bytes());
            assert!(found, "{entry:?} is in {program:?}");
        }
    });
}

#[test]
fn a_gpu_newer_than_nvrtc_gets_code_its_driver_can_finish() {
    let (program, _) = &programs()[0];
    let newer = Capability { major: 99, minor: 0 };
    let folder = tempfile::tempdir().expect("temporary folder");
    let image = image(program, newer, &Cache::at(folder.path().to_owned())).expect("compiles");
    assert!(String::from_utf8_lossy(&image).contains(".target sm_1"), "PTX");
    assert_eq!(image.last(), Some(&0), "the driver takes text that ends in NUL");
}

#[test]
fn every_kernel_agrees_with_its_cpu_twin_when_emulated() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let emulator = Emulator::new(compile_all(&programs(), &folder));
    assert_all_agree(check::all(&emulator));
}

#[test]
#[ignore = "needs a GPU, and fails without one: make test-gpu"]
fn every_kernel_and_layer_agrees_with_the_cpu_on_a_gpu() {
    let gpus = device::choose(DeviceChoice::Cuda, &Gpus::Count(1));
    let gpus = gpus.unwrap_or_else(|error| panic!("{error}"));
    let outcomes = kernel_check::outcomes(gpus[0]).unwrap_or_else(|error| panic!("{error:#}"));
    assert_all_agree(Ok(outcomes));
}

#[test]
#[should_panic(expected = "the window of 4 channels has no middle")]
fn a_normalisation_without_a_middle_is_refused_before_anything_is_compiled() {
    let recorder = Emulator::new(Mode::Record);
    let lrn = Some(Lrn { size: 4, ..Lrn::PAPER });
    let rule = ReluLrnPool { lrn, groups: 1, pool: MaxPool { window: 3, stride: 2 } };
    let map = Map { num_images: 1, height: 3, width: 3, channels: 8 };
    let a = Buffer::<f32>::zeros(&recorder, map.num_elements()).expect("memory");
    let mut y = Buffer::<f32>::zeros(&recorder, 8).expect("memory");
    let mut argmax = Buffer::<u8>::zeros(&recorder, 8).expect("memory");
    let (y, argmax) = (&mut y.slice_mut(), &mut argmax.slice_mut());
    let input = relu_lrn_pool::Input { a: a.slice(), bias: None, map, stacks: Stacks::ONE };
    let _ = relu_lrn_pool::forward(&recorder, &rule, input, y, argmax);
}

#[test]
fn a_run_of_parameters_that_vectors_cannot_start_at_is_an_error() {
    let recorder = Emulator::new(Mode::Record);
    let mut weights = Buffer::<f32>::zeros(&recorder, 64).expect("memory");
    let mut velocity = Buffer::<f32>::zeros(&recorder, 64).expect("memory");
    let gradient = Buffer::<f32>::zeros(&recorder, 64).expect("memory");
    let mut arrays = update::Arrays {
        weights: weights.slice_mut(),
        state: vec![velocity.slice_mut()],
        gradient: gradient.slice(),
        copy: None,
    };
    let run = update::Run { gradient: 8, weight: 6, state: 4, len: 10, lr: 0.1, decay: 0.0 };
    let error = update::momentum(&recorder, 0.9, &mut arrays, &[run]).expect_err("6 is none of 4");
    assert!(error.to_string().contains("element 6 of an array"), "{error}");
}
