//! Tensors whose values are written in place.
#![expect(unsafe_code, reason = "calls into the C++ bridge and hands out a tensor's memory")]

use tch::{Device, Kind, Tensor};

use crate::bridge::{Error, check, sparc_recycled};

/// A new `f32` tensor on the CPU while its values are being written, row by row: without the copy that a vector would
/// need, and in the memory of an earlier one of the same size that has been dropped, if there is one. Values that nobody
/// writes are unspecified.
#[derive(Debug)]
pub struct Filling {
    tensor: Tensor,
}

impl Filling {
    /// A tensor to be written.
    ///
    /// # Errors
    ///
    /// A negative side, or more memory than there is.
    pub fn new(shape: &[i64]) -> Result<Filling, Error> {
        if shape.contains(&0) && shape.iter().all(|&side| side >= 0) {
            return Ok(Filling { tensor: Tensor::empty(shape, (Kind::Float, Device::Cpu)) });
        }
        let mut pointer = std::ptr::null_mut();
        // SAFETY: `shape` has the length that is told; on success the result is a new tensor that is ours.
        let tensor = unsafe {
            check(sparc_recycled(shape.as_ptr(), shape.len(), &mut pointer))?;
            Tensor::from_ptr(pointer)
        };
        Ok(Filling { tensor })
    }

    /// Its memory.
    pub fn values(&mut self) -> &mut [f32] {
        let n_values = self.tensor.numel();
        if n_values == 0 {
            return &mut [];
        }
        // SAFETY: the tensor is contiguous, holds so many numbers, and nobody else has seen it, nor will as long as
        // `self` lives. Its memory was cleared or written before, and every pattern of bits is an f32.
        unsafe { std::slice::from_raw_parts_mut(self.tensor.data_ptr().cast::<f32>(), n_values) }
    }

    /// The tensor as it is now.
    pub fn finish(self) -> Tensor {
        self.tensor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(shape: &[i64], first: u8) -> Tensor {
        let mut filling = Filling::new(shape).unwrap();
        filling.values().iter_mut().zip(first..).for_each(|(value, i)| *value = f32::from(i));
        filling.finish()
    }

    #[test]
    fn values_stand_row_by_row() {
        let tensor = numbered(&[2, 3], 0);
        assert_eq!((tensor.size(), tensor.kind()), (vec![2, 3], Kind::Float));
        assert_eq!(tensor.double_value(&[1, 0]), 3.0);
        let mut nothing = Filling::new(&[0, 3]).unwrap();
        assert!(nothing.values().is_empty());
        assert_eq!(nothing.finish().size(), [0, 3]);
        for shape in [[2, -3], [-3, 0]] {
            let error = Filling::new(&shape).unwrap_err().to_string();
            assert!(error.contains("-3"), "{error}");
        }
    }

    #[test]
    fn memory_is_used_again_but_never_by_two() {
        // A size that no other test has.
        let shape = [7, 11, 13];
        let first = numbered(&shape, 1);
        let view = first.get(0);
        let place = first.data_ptr();
        drop(first);
        let second = numbered(&shape, 2);
        assert_ne!(second.data_ptr(), place, "a view still looks at it");
        assert_eq!(view.double_value(&[0, 0]), 1.0);
        drop(view);
        let third = numbered(&shape, 3);
        assert_eq!(third.data_ptr(), place);
        assert_eq!((second.double_value(&[0, 0, 0]), third.double_value(&[0, 0, 0])), (2.0, 3.0));
    }

    #[test]
    fn threads_share_the_memory() {
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                scope.spawn(move || {
                    for _ in 0..200 {
                        let (one, other) = (numbered(&[5, 17], thread), numbered(&[5, 17], thread + 100));
                        assert_eq!(one.double_value(&[0, 0]), f64::from(thread));
                        assert_eq!(other.double_value(&[0, 0]), f64::from(thread + 100));
                    }
                });
            }
        });
    }
}
