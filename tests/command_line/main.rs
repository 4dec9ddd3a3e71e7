//! The program as its users meet it: what it says and returns, and what is left on disk afterwards. Every case runs
//! the real binary.

mod desk;
mod mistakes;
mod models;
mod runs;
