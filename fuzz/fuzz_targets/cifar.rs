//! See `hostile::cifar` and its siblings.
#![no_main]

use alexnet_mgpu_fuzz::data::hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = hostile::cifar(bytes);
    let _ = hostile::cifar100(bytes);
    let _ = hostile::pickle_of_cifar(bytes);
});
