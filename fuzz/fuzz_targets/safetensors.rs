//! The header of a checkpoint, as `checkpoint::read_tensors` reads it before any tensor is made.
#![no_main]

use safetensors::SafeTensors;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = SafeTensors::deserialize(bytes) {
        for (_, view) in file.iter() {
            let num_values: usize = view.shape().iter().product();
            assert_eq!(num_values * view.dtype().bitsize(), view.data().len() * 8);
        }
    }
});
