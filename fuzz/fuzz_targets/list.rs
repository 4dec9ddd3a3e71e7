//! See `hostile::class_names` and `hostile::validation`.
#![no_main]

use alexnet_mgpu_fuzz::data::hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = hostile::class_names(bytes);
    let _ = hostile::validation(bytes);
});
