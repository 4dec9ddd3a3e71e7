//! The image pipeline of the program, with its entry points for hostile bytes.
#![allow(dead_code, unused_imports)] // included files hold what the program alone uses

#[path = "../../src/cancel.rs"]
pub mod cancel;
#[path = "../../src/data/mod.rs"]
pub mod data;
#[path = "../../src/folder_lock.rs"]
pub mod folder_lock;
pub mod kernels;
#[path = "../../src/panics.rs"]
pub mod panics;
#[path = "../../src/random.rs"]
pub mod random;
#[path = "../../src/replace.rs"]
pub mod replace;
