//! Multi-head self- and cross-attention (Vaswani et al. 2017) through LibTorch's fused kernel.

use tch::{Device, Kind, Tensor};

use super::Linear;
use crate::{Init, ParameterBuilder, TowerShape};

// Dimension letters: b batch, l tokens, q queries, x context, w width, c context width, h heads, d width of a head.

/// Self-attention with one joint projection for queries, keys and values.
#[derive(Debug)]
pub struct SelfAttention {
    query_key_value: Linear,
    output: Linear,
    heads: i64,
}

impl SelfAttention {
    /// Initialised as CLIP's reference code does: projections N(0, 1/w), the output, which adds to
    /// the residual stream, smaller by √(2 · depth).
    pub fn new(builder: &ParameterBuilder, shape: TowerShape) -> SelfAttention {
        let TowerShape { width, depth, heads } = shape;
        assert!(width % heads == 0, "width {width} cannot be split into {heads} heads");
        let deviation = (width as f64).powf(-0.5);
        let residual = deviation * (2.0 * depth as f64).powf(-0.5);
        SelfAttention {
            query_key_value: Linear::new(&builder.under("qkv"), width, 3 * width, true, Init::Normal(deviation)),
            output: Linear::new(&builder.under("out"), width, width, true, Init::Normal(residual)),
            heads,
        }
    }

    /// `[B, L, W]` → `[B, L, W]`; `mask` is what [`key_mask`] or [`causal_mask`] gives, or none.
    pub fn forward(&self, x_blw: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let [query, key_bhxd, value_bhxd] = self.project(x_blw);
        self.project_back(&KeyValues { key_bhxd, value_bhxd }.attend(&query, mask))
    }

    /// The last token's part of a causal [`SelfAttention::forward`]: `[B, 1, W]` → `[B, 1, W]`. `past` holds what
    /// the tokens before it have left there, and this one's own afterwards.
    pub fn forward_step(&self, x_b1w: &Tensor, past: &mut Option<KeyValues>) -> Tensor {
        let [query, key_bhxd, value_bhxd] = self.project(x_b1w);
        let own = KeyValues { key_bhxd, value_bhxd };
        let keys = match past.take() {
            None => own,
            Some(past) => KeyValues {
                key_bhxd: Tensor::cat(&[past.key_bhxd, own.key_bhxd], 2),
                value_bhxd: Tensor::cat(&[past.value_bhxd, own.value_bhxd], 2),
            },
        };
        let output = self.project_back(&keys.attend(&query, None));
        *past = Some(keys);
        output
    }

    /// Queries, keys and values of `[B, L, W]`, each `[B, H, L, W / H]`.
    pub fn project(&self, x_blw: &Tensor) -> [Tensor; 3] {
        self.split(&self.query_key_value, x_blw)
    }

    /// Keys and values alone.
    pub fn project_context(&self, x_blw: &Tensor) -> [Tensor; 2] {
        let w = x_blw.size()[2];
        self.split(&self.query_key_value.outputs(w, 2 * w), x_blw)
    }

    fn split<const N: usize>(&self, projection: &Linear, x_blw: &Tensor) -> [Tensor; N] {
        let (b, l, w) = x_blw.size3().expect("attention input is [B, L, W]");
        let heads =
            projection.forward(x_blw).view([b, l, N as i64, self.heads, w / self.heads]).permute([2, 0, 3, 1, 4]);
        std::array::from_fn(|index| heads.get(index as i64))
    }

    /// The mixed values `[B, H, L, W / H]` of all heads, back in the stream: `[B, L, W]`.
    pub fn project_back(&self, mixed_bhlw: &Tensor) -> Tensor {
        let (b, h, l, w) = mixed_bhlw.size4().expect("mixed values are [B, H, L, W / H]");
        self.output.forward(&mixed_bhlw.transpose(1, 2).reshape([b, l, h * w]))
    }
}

/// What attention looks at, head by head.
#[derive(Debug)]
pub struct KeyValues {
    key_bhxd: Tensor,
    value_bhxd: Tensor,
}

impl KeyValues {
    /// The same of these rows of the batch, `[R]`.
    pub fn select(&self, rows: &Tensor) -> KeyValues {
        KeyValues { key_bhxd: self.key_bhxd.index_select(0, rows), value_bhxd: self.value_bhxd.index_select(0, rows) }
    }

    fn attend(&self, query_bhqd: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let (key, value) = (&self.key_bhxd, &self.value_bhxd);
        Tensor::scaled_dot_product_attention(query_bhqd, key, value, mask, 0.0, false, None, false)
    }

    /// The same, its probabilities `[B, H, Q, X]` through `see`; the fused kernel does not give them.
    fn attend_seen(&self, query_bhqd: &Tensor, mask: Option<&Tensor>, see: SeeAttention<'_>) -> Tensor {
        let width = query_bhqd.size().last().map_or(1.0, |&width| width as f64);
        let logits_bhqx = query_bhqd.matmul(&self.key_bhxd.transpose(2, 3)) / width.sqrt();
        let logits_bhqx = match mask {
            Some(mask) => logits_bhqx.masked_fill(&mask.logical_not(), f64::NEG_INFINITY),
            None => logits_bhqx,
        };
        see(logits_bhqx.softmax(-1, None::<Kind>)).matmul(&self.value_bhxd)
    }
}

/// Gets the probabilities of an attention, `[B, H, Q, X]`, and gives those that values are mixed with.
pub type SeeAttention<'a> = &'a mut dyn FnMut(Tensor) -> Tensor;

/// Attention of one sequence to another, each through projections of its own.
#[derive(Debug)]
pub struct CrossAttention {
    query: Linear,
    key_value: Linear,
    output: Linear,
    width: i64,
    heads: i64,
}

impl CrossAttention {
    /// Attention of `width` in `heads` from sequences of `query_width` to sequences of `context_width`;
    /// projections N(0, 1 / their input width), as those of [`SelfAttention`].
    pub fn new(
        builder: &ParameterBuilder,
        query_width: i64,
        context_width: i64,
        width: i64,
        heads: i64,
    ) -> CrossAttention {
        let output_deviation = (width as f64).powf(-0.5);
        CrossAttention::with_output(builder, (query_width, context_width), (width, heads), output_deviation)
    }

    /// Attention of a stream of `shape` to a context, to be added to the stream: the output starts smaller by
    /// √(2 · depth), as that of [`SelfAttention`].
    pub fn residual(builder: &ParameterBuilder, shape: TowerShape, context_width: i64) -> CrossAttention {
        let TowerShape { width, depth, heads } = shape;
        let output_deviation = (width as f64).powf(-0.5) * (2.0 * depth as f64).powf(-0.5);
        CrossAttention::with_output(builder, (width, context_width), (width, heads), output_deviation)
    }

    fn with_output(
        builder: &ParameterBuilder,
        (query_width, context_width): (i64, i64),
        (width, heads): (i64, i64),
        output_deviation: f64,
    ) -> CrossAttention {
        assert!(width % heads == 0, "width {width} cannot be split into {heads} heads");
        let linear = |name: &str, inputs: i64, outputs: i64, deviation: f64| {
            Linear::new(&builder.under(name), inputs, outputs, true, Init::Normal(deviation))
        };
        let deviation = |inputs: i64| (inputs as f64).powf(-0.5);
        CrossAttention {
            query: linear("query", query_width, width, deviation(query_width)),
            key_value: linear("key_value", context_width, 2 * width, deviation(context_width)),
            output: linear("out", width, query_width, output_deviation),
            width,
            heads,
        }
    }

    /// `[B, Q, W]` and `[B, X, C]` → `[B, Q, W]`; `mask` of the context is what [`key_mask`] gives, or none.
    pub fn forward(&self, queries_bqw: &Tensor, context_bxc: &Tensor, mask: Option<&Tensor>) -> Tensor {
        self.attend(queries_bqw, &self.key_values(context_bxc), mask)
    }

    /// What queries look at in a context `[B, X, C]`: computed once, for any number of them.
    pub fn key_values(&self, context_bxc: &Tensor) -> KeyValues {
        let (b, x, _) = context_bxc.size3().expect("the context is [B, X, C]");
        let head = self.width / self.heads;
        let key_value = self.key_value.forward(context_bxc).view([b, x, 2, self.heads, head]).permute([2, 0, 3, 1, 4]);
        KeyValues { key_bhxd: key_value.get(0), value_bhxd: key_value.get(1) }
    }

    /// [`CrossAttention::forward`] to a context that [`CrossAttention::key_values`] was given.
    pub fn attend(&self, queries_bqw: &Tensor, context: &KeyValues, mask: Option<&Tensor>) -> Tensor {
        self.project_back(&context.attend(&self.project(queries_bqw), mask))
    }

    /// [`CrossAttention::attend`] with its probabilities through `see`.
    pub fn attend_seen(
        &self,
        queries_bqw: &Tensor,
        context: &KeyValues,
        mask: Option<&Tensor>,
        see: SeeAttention<'_>,
    ) -> Tensor {
        self.project_back(&context.attend_seen(&self.project(queries_bqw), mask, see))
    }

    fn project(&self, queries_bqw: &Tensor) -> Tensor {
        let (b, q, _) = queries_bqw.size3().expect("queries are [B, Q, W]");
        self.query.forward(queries_bqw).view([b, q, self.heads, self.width / self.heads]).transpose(1, 2)
    }

    fn project_back(&self, mixed_bhqd: &Tensor) -> Tensor {
        let (b, _, q, _) = mixed_bhqd.size4().expect("mixed values are [B, H, Q, W / H]");
        self.output.forward(&mixed_bhqd.transpose(1, 2).reshape([b, q, self.width]))
    }
}

/// Attention mask `[B, 1, 1, L]` that hides padding from every query.
///
/// A text that is all padding keeps its first position, or its softmax would be over nothing and
/// give NaN; that text's tokens are masked everywhere else.
pub fn key_mask(mask_bl: &Tensor) -> Tensor {
    let empty_b1 = mask_bl.any_dim(1, true).logical_not();
    let mask = mask_bl.copy();
    let first_b1 = mask.narrow(1, 0, 1).logical_or(&empty_b1);
    mask.narrow(1, 0, 1).copy_(&first_b1);
    mask.unsqueeze(1).unsqueeze(1)
}

/// Attention mask `[L, L]` that hides from each token those after it.
pub fn causal_mask(length: i64, device: Device) -> Tensor {
    Tensor::ones([length, length], (Kind::Bool, device)).tril(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sparc_testing::{assert_close, cube, random, rows, scalar, values};

    /// Attention of one sample in scalar loops, from Vaswani et al.'s equation 1.
    fn reference(x: &[Vec<f64>], parameters: &crate::Parameters, heads: usize, visible: &[bool]) -> Vec<Vec<f64>> {
        let matrix = |name: &str| rows(parameters.get(name).unwrap());
        let vector = |name: &str| values(parameters.get(name).unwrap());
        let affine = |w: &[Vec<f64>], b: &[f64], x: &[f64]| -> Vec<f64> {
            w.iter().zip(b).map(|(row, b)| row.iter().zip(x).map(|(a, c)| a * c).sum::<f64>() + b).collect()
        };
        let (w, b) = (matrix("qkv.weight"), vector("qkv.bias"));
        let projected: Vec<Vec<f64>> = x.iter().map(|x| affine(&w, &b, x)).collect();
        let (width, head) = (x[0].len(), x[0].len() / heads);
        let mixed: Vec<Vec<f64>> = (0..x.len())
            .map(|i| {
                (0..width)
                    .map(|d| {
                        let start = d / head * head;
                        let scores: Vec<f64> = (0..x.len())
                            .map(|j| {
                                let dot: f64 =
                                    (start..start + head).map(|k| projected[i][k] * projected[j][width + k]).sum();
                                if visible[j] { (dot / (head as f64).sqrt()).exp() } else { 0.0 }
                            })
                            .collect();
                        let total: f64 = scores.iter().sum();
                        (0..x.len()).map(|j| scores[j] / total * projected[j][2 * width + d]).sum()
                    })
                    .collect()
            })
            .collect();
        let (w, b) = (matrix("out.weight"), vector("out.bias"));
        mixed.iter().map(|x| affine(&w, &b, x)).collect()
    }

    #[test]
    fn cross_attention_to_itself_is_self_attention() {
        let shape = TowerShape { width: 6, depth: 1, heads: 2 };
        let builder = ParameterBuilder::new(3, Kind::Double, Device::Cpu);
        let attention = SelfAttention::new(&builder, shape);
        let own = builder.finish();
        let builder = ParameterBuilder::new(4, Kind::Double, Device::Cpu);
        let cross = CrossAttention::new(&builder, 6, 6, 6, 2);
        let mut parameters = builder.finish();
        let part = |name: &str, start: i64, size: i64| own.get(name).unwrap().narrow(0, start, size).detach().copy();
        let source = [
            ("query.weight", part("qkv.weight", 0, 6)),
            ("query.bias", part("qkv.bias", 0, 6)),
            ("key_value.weight", part("qkv.weight", 6, 12)),
            ("key_value.bias", part("qkv.bias", 6, 12)),
            ("out.weight", part("out.weight", 0, 6)),
            ("out.bias", part("out.bias", 0, 6)),
        ];
        parameters.load(&source.map(|(name, tensor)| (name.to_owned(), tensor)).into()).unwrap();
        let x = random(&[2, 4, 6], 1);
        let mask = key_mask(&Tensor::from_slice(&[true, true, true, true, true, true, false, false]).view([2, 4]));
        let (a, b) = tch::no_grad(|| (attention.forward(&x, Some(&mask)), cross.forward(&x, &x, Some(&mask))));
        for (a, b) in values(&a).into_iter().zip(values(&b)) {
            assert_close(a, b, 1e-12);
        }
    }

    #[test]
    fn seen_attention_is_the_fused_kernels() {
        let mask = key_mask(&Tensor::from_slice(&[true, true, true, false, true, false, false, false]).view([2, 4]));
        for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-6)] {
            let builder = ParameterBuilder::new(4, kind, Device::Cpu);
            let cross = CrossAttention::new(&builder, 6, 5, 8, 2);
            let (queries, context) = (random(&[2, 3, 6], 1).to_kind(kind), random(&[2, 4, 5], 2).to_kind(kind));
            let context = cross.key_values(&context);
            for mask in [None, Some(&mask)] {
                let mut seen = Tensor::new();
                let explicit = cross.attend_seen(&queries, &context, mask, &mut |probabilities| {
                    seen = probabilities.shallow_clone();
                    probabilities
                });
                let fused = cross.attend(&queries, &context, mask);
                assert!(scalar(&(explicit - fused).abs().max()) < tolerance, "{kind:?}");
                assert_eq!(seen.size(), [2, 2, 3, 4]);
                let masked = seen.get(1).narrow(2, 1, 3);
                assert_eq!(scalar(&masked.abs().max()) == 0.0, mask.is_some());
            }
        }
    }

    #[test]
    fn agrees_with_the_scalar_reference() {
        let builder = ParameterBuilder::new(3, Kind::Double, Device::Cpu);
        let attention = SelfAttention::new(&builder, TowerShape { width: 6, depth: 1, heads: 2 });
        let parameters = builder.finish();
        let x = random(&[2, 4, 6], 1);
        let mask = Tensor::from_slice(&[true, true, true, true, true, true, false, false]).view([2, 4]);
        let output = cube(&tch::no_grad(|| attention.forward(&x, Some(&key_mask(&mask)))));
        for (sample, visible) in [[true; 4], [true, true, false, false]].iter().enumerate() {
            let expected = reference(&cube(&x)[sample], &parameters, 2, visible);
            for (row, expected) in output[sample].iter().zip(&expected) {
                for (value, expected) in row.iter().zip(expected) {
                    assert_close(*value, *expected, 1e-10);
                }
            }
        }
    }
}
