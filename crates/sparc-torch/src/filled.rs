//! Tensors whose values are written in place.
#![expect(unsafe_code, reason = "hands out a tensor's memory")]

use tch::{Device, Kind, Tensor};

/// A new `f32` tensor on the CPU with the values that `write` puts into its memory, row by row: without the copy that a
/// vector would need. Values that `write` leaves alone are unspecified.
///
/// # Panics
///
/// A negative size, or more memory than there is.
pub fn filled(shape: &[i64], write: impl FnOnce(&mut [f32])) -> Tensor {
    let tensor = Tensor::empty(shape, (Kind::Float, Device::Cpu));
    let length = tensor.numel();
    if length > 0 {
        // SAFETY: a new tensor is contiguous, holds `length` numbers, and nobody else has seen it. Its memory comes from
        // a foreign allocator, and every pattern of bits is an f32.
        write(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), length) });
    }
    tensor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_row_by_row() {
        let tensor = filled(&[2, 3], |values| {
            assert_eq!(values.len(), 6);
            values.iter_mut().zip(0u8..).for_each(|(value, i)| *value = f32::from(i));
        });
        assert_eq!((tensor.size(), tensor.kind()), (vec![2, 3], Kind::Float));
        assert_eq!(tensor.double_value(&[1, 0]), 3.0);
        assert_eq!(filled(&[0, 3], |_| panic!("nothing to write")).size(), [0, 3]);
    }
}
