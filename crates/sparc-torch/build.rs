//! Compiles the bridge against the headers that torch-sys found, and passes LibTorch's folder on.

use std::path::PathBuf;

fn main() {
    let lib = PathBuf::from(std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys reports LibTorch's folder"));
    let lib = lib.canonicalize().unwrap_or(lib);
    let include = lib.with_file_name("include");
    println!("cargo:rerun-if-changed=cpp");
    println!("cargo:libtorch_lib={}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(include.join("torch/csrc/api/include"))
        .include(include)
        .file("cpp/all.cpp");
    // `at::parallel_for` is compiled here and runs on the threads of LibTorch's OpenMP, which is GCC's;
    // without the flag it runs on one thread.
    let openmp = build.get_compiler().is_like_gnu();
    if openmp {
        build.flag("-fopenmp");
    }
    build.compile("sparc_bridge");
    // The bridge is placed after torch-sys's libraries: name what it needs once more.
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    if openmp {
        println!("cargo:rustc-link-lib=gomp");
    }
}
