//! Tells the linker where LibTorch lies, so that this crate's tests start from any directory.

fn main() {
    let folder = std::env::var("DEP_SPARC_TORCH_LIBTORCH_LIB").expect("sparc-torch reports LibTorch's folder");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
}
