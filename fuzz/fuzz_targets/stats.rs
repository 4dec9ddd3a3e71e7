//! See `hostile::stats`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = alexnet_mgpu_fuzz::data::hostile::stats(bytes);
});
