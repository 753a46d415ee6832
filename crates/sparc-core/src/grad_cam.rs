//! Grad-CAM of attention (Selvaraju et al. 2017, as ALBEF, Li et al. 2021, uses it): where a text looks in an image to
//! have its pair judged a match.

use tch::{Kind, Tensor};

// Dimension letters: r pairs, h heads, l tokens, m image tokens.

/// For each token, how much its attention to each image token speaks for the judgement: the attention probability times
/// its gradient's positive part, averaged over heads.
///
/// # Shapes
///
/// Attention probabilities and the gradient of the judgement by them, `[R, H, L, M]` both; the result is `[R, L, M]` and
/// nowhere below 0.
///
/// # Panics
///
/// If the shapes disagree.
pub fn grad_cam(attention_rhlm: &Tensor, gradient_rhlm: &Tensor) -> Tensor {
    assert_eq!(attention_rhlm.size(), gradient_rhlm.size(), "attention and its gradient");
    (attention_rhlm * gradient_rhlm.clamp_min(0.0)).mean_dim([1i64].as_slice(), false, None::<Kind>)
}

#[cfg(test)]
mod tests {
    use sparc_testing::{assert_close, random, values};

    use super::*;

    #[test]
    fn agrees_with_loops() {
        let [r, h, l, m] = [2usize, 3, 2, 4];
        let shape = [r, h, l, m].map(|size| size as i64);
        let (attention, gradient) = (random(&shape, 1).softmax(-1, None::<Kind>), random(&shape, 2));
        let (a, g) = (values(&attention), values(&gradient));
        assert!(g.iter().any(|g| *g < 0.0) && g.iter().any(|g| *g > 0.0));
        let heat = grad_cam(&attention, &gradient);
        assert_eq!(heat.size(), [r, l, m].map(|size| size as i64));
        let mut heat = values(&heat).into_iter();
        for pair in 0..r {
            for token in 0..l {
                for seen in 0..m {
                    let mut sum = 0.0;
                    for head in 0..h {
                        let place = ((pair * h + head) * l + token) * m + seen;
                        sum += if g[place] > 0.0 { a[place] * g[place] } else { 0.0 };
                    }
                    assert_close(heat.next().unwrap(), sum / h as f64, 1e-14);
                }
            }
        }
    }
}
