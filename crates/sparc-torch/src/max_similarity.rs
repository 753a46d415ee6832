//! Token-wise maximum cosines of all images with all texts, and their gradient.
#![expect(unsafe_code, reason = "calls into the C++ bridge")]

use std::ptr;

use tch::{Kind, Tensor};

use crate::bridge::{Error, RawTensor, check, sparc_max_similarity, sparc_max_similarity_backward};

/// For A images and C texts, the mean over patches of the largest similarity with a word of the text, the
/// mean over words of the largest similarity with a patch of the image, and where the maxima lie.
///
/// Similarities are cosines, of vectors as they are: no unit copy of them is made, and a zero vector has
/// cosine 0 with everything. They are computed for one image and some texts at a time; what is kept are
/// positions, 4·A·(C·P + W) bytes for W words in all. At a tie the first maximum counts.
#[derive(Debug)]
pub struct MaxSimilarity {
    patches_apd: Tensor,
    words_wd: Tensor,
    starts: Tensor,
    /// Mean over patches, `[A, C]`; 0 for a text without words.
    pub over_patches_ac: Tensor,
    /// Mean over words, `[A, C]`; 0 for a text without words.
    pub over_words_ac: Tensor,
    best_word: Tensor,
    best_patch: Tensor,
}

impl MaxSimilarity {
    /// Computes the means. The words of all texts lie one after the other; text c has those from
    /// `starts[c]` to `starts[c + 1]`.
    ///
    /// # Shapes
    ///
    /// `patches_apd` `[A, P, D]`, `words_wd` `[W, D]`, f32 or f64 on the CPU; `starts` C + 1 numbers, from 0 to W.
    ///
    /// # Errors
    ///
    /// Shapes, kinds or devices that do not fit.
    pub fn new(patches_apd: &Tensor, words_wd: &Tensor, starts: &[i64]) -> Result<MaxSimilarity, Error> {
        let starts = Tensor::from_slice(starts);
        let mut results: [RawTensor; 4] = [ptr::null_mut(); 4];
        let [over_patches, over_words, best_word, best_patch] = &mut results;
        // SAFETY: all pointers are of live tensors; on success the bridge has written four new, owned ones.
        let [over_patches_ac, over_words_ac, best_word, best_patch] = unsafe {
            check(sparc_max_similarity(
                patches_apd.as_ptr().cast_mut(),
                words_wd.as_ptr().cast_mut(),
                starts.as_ptr().cast_mut(),
                over_patches,
                over_words,
                best_word,
                best_patch,
            ))?;
            results.map(|result| Tensor::from_ptr(result))
        };
        Ok(MaxSimilarity {
            patches_apd: patches_apd.detach(),
            words_wd: words_wd.detach(),
            starts,
            over_patches_ac,
            over_words_ac,
            best_word,
            best_patch,
        })
    }

    /// Gradients of patches `[A, P, D]` and words `[W, D]` from those of the two means, `[A, C]`; `None`
    /// counts as zero. One pair of vectors a maximum is all that is added up.
    ///
    /// # Errors
    ///
    /// Gradients of another shape or kind.
    pub fn backward(
        &self,
        over_patches_ac: Option<&Tensor>,
        over_words_ac: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor), Error> {
        let pointer = |tensor: Option<&Tensor>| tensor.map_or(ptr::null_mut(), |tensor| tensor.as_ptr().cast_mut());
        let (mut patches, mut words) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: as above; null gradients are allowed, and two new, owned tensors are written on success.
        unsafe {
            check(sparc_max_similarity_backward(
                self.patches_apd.as_ptr().cast_mut(),
                self.words_wd.as_ptr().cast_mut(),
                self.starts.as_ptr().cast_mut(),
                self.best_word.as_ptr().cast_mut(),
                self.best_patch.as_ptr().cast_mut(),
                pointer(over_patches_ac),
                pointer(over_words_ac),
                &mut patches,
                &mut words,
            ))?;
            Ok((Tensor::from_ptr(patches), Tensor::from_ptr(words)))
        }
    }

    /// Whether tensors of this kind on this device are taken.
    pub fn takes(tensor: &Tensor) -> bool {
        tensor.device() == tch::Device::Cpu && matches!(tensor.kind(), Kind::Float | Kind::Double)
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
    }

    #[test]
    fn maxima_and_their_gradients_by_hand() {
        let patches = Tensor::from_slice(&[2.0f64, 0.0, 0.0, 4.0, -1.0, 0.0]).view([1, 3, 2]);
        let words = Tensor::from_slice(&[1.0f64, 0.0, 0.0, 4.0, -2.0, 0.0]).view([3, 2]);
        // Cosines with words 0, 1 | 2: (1, 0 | −1), (0, 1 | 0), (−1, 0 | 1). The second text is empty.
        let similarity = MaxSimilarity::new(&patches, &words, &[0, 2, 2, 3]).unwrap();
        assert_eq!(values(&similarity.over_patches_ac), [2.0 / 3.0, 0.0, 0.0]);
        assert_eq!(values(&similarity.over_words_ac), [1.0, 0.0, 1.0]);
        // Only patch 2 and word 1, at a right angle, gain from turning.
        let gradient = Tensor::from_slice(&[3.0f64, 100.0, 0.0]).view([1, 3]);
        let (patches_gradient, words_gradient) = similarity.backward(Some(&gradient), None).unwrap();
        assert_eq!(values(&patches_gradient), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(values(&words_gradient), [0.0, 0.0, -0.25, 0.0, 0.0, 0.0]);
        let (patches_gradient, words_gradient) = similarity.backward(None, Some(&gradient)).unwrap();
        assert_eq!((values(&patches_gradient), values(&words_gradient)), (vec![0.0; 6], vec![0.0; 6]));
    }

    #[test]
    fn zero_vectors_have_no_direction_and_no_gradient() {
        let zeros = Tensor::zeros([1, 2, 3], (Kind::Double, Device::Cpu));
        let words = Tensor::from_slice(&[1.0f64, 2.0, 2.0]).view([1, 3]);
        let similarity = MaxSimilarity::new(&zeros, &words, &[0, 1]).unwrap();
        assert_eq!(values(&similarity.over_patches_ac), [0.0]);
        let one = Tensor::ones([1, 1], (Kind::Double, Device::Cpu));
        let (patches_gradient, words_gradient) = similarity.backward(Some(&one), Some(&one)).unwrap();
        assert_eq!((values(&patches_gradient), values(&words_gradient)), (vec![0.0; 6], vec![0.0; 3]));
    }

    #[test]
    fn misfits_are_errors() {
        let float = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let error = |patches: &Tensor, words: &Tensor, starts: &[i64]| {
            MaxSimilarity::new(patches, words, starts).map(|_| ()).unwrap_err()
        };
        for error in [
            error(&float(&[1, 2, 3]), &float(&[4, 2]), &[0, 4]),
            error(&float(&[1, 2, 3]), &float(&[4, 3]), &[0, 3]),
            error(&float(&[1, 2, 3]), &float(&[4, 3]), &[0, 3, 2, 4]),
            error(&float(&[1, 2, 3]), &float(&[4, 3]), &[]),
            error(&float(&[1, 2, 3]), &float(&[4, 3]).to_kind(Kind::Double), &[0, 4]),
            error(&float(&[1, 2, 3]).to_kind(Kind::Int64), &float(&[4, 3]).to_kind(Kind::Int64), &[0, 4]),
        ] {
            assert!(matches!(error, Error::LibTorch(_)), "{error}");
        }
        let similarity = MaxSimilarity::new(&float(&[1, 2, 3]), &float(&[4, 3]), &[0, 4]).unwrap();
        assert!(similarity.backward(Some(&float(&[2, 1])), None).is_err());
    }
}
