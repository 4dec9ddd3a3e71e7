//! The header of a safetensors file, as the library that the program reads it with takes it apart. What
//! `checkpoint::read_tensors` then makes of it needs libtorch and is not run here.
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
