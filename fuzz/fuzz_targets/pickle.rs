//! See `hostile::pickle`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = alexnet_mgpu_fuzz::data::hostile::pickle(bytes);
});
