//! Makes the binary find libtorch where it was linked, without LD_LIBRARY_PATH.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // torch-sys exposes this to direct dependents only, hence its line in Cargo.toml.
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        // For messages that say where a library was looked for.
        println!("cargo:rustc-env=LIBTORCH_LIB={lib}");
        // NVRTC, which the program opens by name, as its wheel unpacks beside libtorch.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}/../../nvidia/cu13/lib");
    }
}
