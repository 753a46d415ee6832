//! The border to C++: error messages and tensor lists.
#![expect(unsafe_code, reason = "calls into the C++ bridge")]

use std::ffi::{CStr, c_char};

use tch::Tensor;

/// A C++ exception from LibTorch, or arguments that do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// LibTorch threw; the first line of what it said.
    #[error("libtorch: {0}")]
    LibTorch(String),
    /// Lists that must run in parallel have different lengths.
    #[error("{what}: expected {expected} tensors, got {actual}")]
    Length {
        /// Which list.
        what: &'static str,
        /// Length of the list it must match.
        expected: usize,
        /// Its own length.
        actual: usize,
    },
    /// A tensor whose shape, kind or device does not fit.
    #[error("{what}: expected {expected}, got {actual}")]
    Tensor {
        /// Which tensor.
        what: String,
        /// What would fit.
        expected: String,
        /// What it is.
        actual: String,
    },
}

impl Error {
    /// [`Error::Tensor`] for `tensor`.
    pub(crate) fn tensor(what: impl Into<String>, expected: impl Into<String>, tensor: &Tensor) -> Self {
        Self::Tensor { what: what.into(), expected: expected.into(), actual: describe(tensor) }
    }
}

/// Kind, shape and device of a tensor in words.
pub(crate) fn describe(tensor: &Tensor) -> String {
    format!("{:?} {:?} on {:?}", tensor.kind(), tensor.size(), tensor.device())
}

/// `at::Tensor`, as tch holds it behind a pointer.
pub(crate) type RawTensor = *mut torch_sys::C_tensor;

unsafe extern "C" {
    fn sparc_free_message(text: *mut c_char);
    pub(crate) fn sparc_fused_adamw(
        parameters: *const RawTensor,
        gradients: *const RawTensor,
        first_moments: *const RawTensor,
        second_moments: *const RawTensor,
        steps: *const RawTensor,
        count: usize,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> *mut c_char;
    pub(crate) fn sparc_total_norm(tensors: *const RawTensor, count: usize, result: *mut RawTensor) -> *mut c_char;
    pub(crate) fn sparc_scale(tensors: *const RawTensor, count: usize, factor: RawTensor) -> *mut c_char;
    pub(crate) fn sparc_recycled(shape: *const i64, dimensions: usize, result: *mut RawTensor) -> *mut c_char;
    pub(crate) fn sparc_vjp(
        outputs: *const RawTensor,
        grad_outputs: *const RawTensor,
        output_count: usize,
        inputs: *const RawTensor,
        input_count: usize,
        gradients: *mut RawTensor,
    ) -> *mut c_char;
    pub(crate) fn sparc_custom_gradient(
        value: RawTensor,
        inputs: *const RawTensor,
        gradients: *const RawTensor,
        count: usize,
        result: *mut RawTensor,
    ) -> *mut c_char;
    pub(crate) fn sparc_max_similarity(
        patches: RawTensor,
        words: RawTensor,
        starts: RawTensor,
        over_patches: *mut RawTensor,
        over_words: *mut RawTensor,
        best_word: *mut RawTensor,
        best_patch: *mut RawTensor,
    ) -> *mut c_char;
    pub(crate) fn sparc_max_similarity_backward(
        patches: RawTensor,
        words: RawTensor,
        starts: RawTensor,
        best_word: RawTensor,
        best_patch: RawTensor,
        patch_gradient: RawTensor,
        word_gradient: RawTensor,
        d_patches: *mut RawTensor,
        d_words: *mut RawTensor,
    ) -> *mut c_char;
    pub(crate) fn sparc_sparc_local(
        patches: RawTensor,
        tokens: RawTensor,
        mask: RawTensor,
        scale: RawTensor,
        weights: i32,
        sigma: f64,
        detach_weights: bool,
        eps: f64,
        results: *mut RawTensor,
    ) -> *mut c_char;
}

/// Turns a bridge function's return value into a result, freeing the message.
pub(crate) fn check(message: *mut c_char) -> Result<(), Error> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null return value of the bridge is a NUL-terminated string from malloc that
    // this call owns; it is copied before it is freed, and freed once.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        sparc_free_message(message);
        text
    };
    Err(Error::LibTorch(text))
}

/// The pointers of a list of tensors; they live as long as the borrowed tensors do.
pub(crate) fn pointers(tensors: &[&Tensor]) -> Vec<RawTensor> {
    tensors.iter().map(|tensor| tensor.as_ptr().cast_mut()).collect()
}
