//! See `hostile::packed` and `hostile::manifest`.
#![no_main]

use alexnet_mgpu_fuzz::data::hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = hostile::packed(bytes);
    let _ = hostile::manifest(bytes);
});
