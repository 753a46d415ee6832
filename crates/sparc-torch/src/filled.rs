//! Tensors whose values are written in place.
#![expect(unsafe_code, reason = "calls into the C++ bridge and hands out a tensor's memory")]

use tch::{Device, Kind, Tensor};

use crate::bridge::{Error, check, sparc_recycled};

/// A new `f32` tensor on the CPU with the values that `write` puts into its memory, row by row: without the copy that a
/// vector would need, and in the memory of an earlier one of the same size that has been dropped, if there is one. Values
/// that `write` leaves alone are unspecified.
///
/// # Errors
///
/// A negative side, or more memory than there is.
pub fn filled(shape: &[i64], write: impl FnOnce(&mut [f32])) -> Result<Tensor, Error> {
    if shape.contains(&0) && shape.iter().all(|&side| side >= 0) {
        return Ok(Tensor::empty(shape, (Kind::Float, Device::Cpu)));
    }
    let mut pointer = std::ptr::null_mut();
    // SAFETY: `shape` has the length that is told; on success the result is a new tensor that is ours.
    let tensor = unsafe {
        check(sparc_recycled(shape.as_ptr(), shape.len(), &mut pointer))?;
        Tensor::from_ptr(pointer)
    };
    // SAFETY: the tensor is contiguous, holds so many numbers, and nobody else has seen it. Its memory was
    // cleared or written before, and every pattern of bits is an f32.
    write(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) });
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(shape: &[i64], first: u8) -> Tensor {
        filled(shape, |values| values.iter_mut().zip(first..).for_each(|(value, i)| *value = f32::from(i))).unwrap()
    }

    #[test]
    fn values_stand_row_by_row() {
        let tensor = numbered(&[2, 3], 0);
        assert_eq!((tensor.size(), tensor.kind()), (vec![2, 3], Kind::Float));
        assert_eq!(tensor.double_value(&[1, 0]), 3.0);
        assert_eq!(filled(&[0, 3], |_| panic!("nothing to write")).unwrap().size(), [0, 3]);
        for shape in [[2, -3], [-3, 0]] {
            let error = filled(&shape, |_| ()).unwrap_err().to_string();
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
