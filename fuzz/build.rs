//! Builds the entry points for hostile bytes, also without cargo-fuzz.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(fuzzing)");
    println!("cargo::rustc-cfg=fuzzing");
}
