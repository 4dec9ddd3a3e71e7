//! The program as its users meet it: what it says and returns, and what is left on disk afterwards. Every case runs
//! the real binary.

#[path = "../common/mod.rs"]
mod common;
mod desk;
mod mistakes;
mod models;
mod runs;
