//! The CUDA kernels without a GPU: NVRTC compiles them all, and an emulator runs them against their
//! CPU twins. With ALEXNET_GPU_TESTS=1, the same checks on the first GPU.

mod cuda_emulation;

use std::collections::HashSet;
use std::ffi::CStr;

use alexnet_mgpu::config::{DeviceChoice, Gpus};
use alexnet_mgpu::kernels::cuda::check::{self, Outcome};
use alexnet_mgpu::kernels::cuda::compile::{Capability, available, image};
use alexnet_mgpu::kernels::cuda::program::Source;
use alexnet_mgpu::kernels::cuda::{CudaError, Program, cache::Cache};
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

/// All programs for Hopper; for the others, one of each source and element type.
fn compilations() -> Vec<(Capability, Program, Vec<&'static CStr>)> {
    let mut seen = HashSet::new();
    let mut compilations = Vec::new();
    for (program, entries) in programs() {
        let element_bits = program.definitions().swap_remove(0);
        let first = seen.insert((program.source(), element_bits));
        let wanted = CAPABILITIES.into_iter().filter(|c| first || c.major == 9);
        compilations.extend(wanted.map(|capability| (capability, program, entries.clone())));
    }
    compilations
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

/// The first GPU, where `ALEXNET_GPU_TESTS=1` says that there is one; a machine without then fails.
#[test]
fn every_kernel_and_layer_agrees_with_the_cpu_on_a_gpu_if_one_was_promised() {
    if std::env::var_os("ALEXNET_GPU_TESTS").is_none_or(|value| value != "1") {
        return;
    }
    let gpus = device::choose(DeviceChoice::Cuda, &Gpus::Count(1));
    let gpus = gpus.unwrap_or_else(|error| panic!("{error}"));
    let outcomes = kernel_check::outcomes(gpus[0]).unwrap_or_else(|error| panic!("{error:#}"));
    assert_all_agree(Ok(outcomes));
}
