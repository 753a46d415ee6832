//! From the network's tensors to checked, L2-normalised arrays.

use ndarray::{Array1, Array2, ArrayViewMut1, s};
use sparc_core::{Encoder, TextFeatures, Tokenize, tensor_math};
use tch::{Device, Kind, Tensor};

use super::{EvalError, EvalRequest, Templates};

// Dimension letters: n rows, d width, k classes.

/// Embeds texts with the network at hand.
#[derive(Clone, Copy)]
pub(super) struct TextEmbedder<'a> {
    pub encoder: &'a dyn Encoder,
    pub tokenizer: &'a dyn Tokenize,
    pub device: Device,
    pub batch_size: usize,
}

impl<'a> TextEmbedder<'a> {
    pub fn new(encoder: &'a dyn Encoder, tokenizer: &'a dyn Tokenize, request: &EvalRequest) -> TextEmbedder<'a> {
        TextEmbedder { encoder, tokenizer, device: request.device, batch_size: request.text_batch_size }
    }

    /// The same with another number of texts at a time.
    pub fn with_batch_size(self, batch_size: usize) -> TextEmbedder<'a> {
        TextEmbedder { batch_size, ..self }
    }

    /// L2-normalised pooled embeddings, `[N, D]`. `non_finite` makes the error for a text whose
    /// embedding is not finite.
    ///
    /// # Panics
    ///
    /// If there is no text: the width is then unknown.
    pub fn embed(&self, texts: &[&str], non_finite: impl Fn(usize) -> EvalError) -> Result<Array2<f32>, EvalError> {
        assert!(!texts.is_empty(), "no text to embed");
        let mut chunks = Vec::new();
        for (index, chunk) in texts.chunks(self.batch_size).enumerate() {
            let tokens = self.tokenizer.tokenize(chunk).to_device(self.device);
            let pooled_nd = self.encoder.encode_text(&tokens).pooled_bd;
            assert_eq!(pooled_nd.size()[0], chunk.len() as i64, "one embedding per text, not {:?}", pooled_nd.size());
            chunks.push(normalized_rows(&pooled_nd, |row| non_finite(index * self.batch_size + row))?);
        }
        let views: Vec<_> = chunks.iter().map(Array2::view).collect();
        Ok(ndarray::concatenate(ndarray::Axis(0), &views).expect("all texts have the network's width"))
    }

    /// Features of the texts, token by token, a batch at a time.
    pub fn features<'t>(self, texts: &'t [&str]) -> impl Iterator<Item = TextFeatures> + use<'a, 't> {
        texts
            .chunks(self.batch_size)
            .map(move |chunk| self.encoder.encode_text(&self.tokenizer.tokenize(chunk).to_device(self.device)))
    }

    /// One embedding per class, `[K, D]`: all templates → L2 → mean → L2, as CLIP_benchmark does.
    /// `progress` hears the number of classes done.
    pub fn embed_classes(
        &self,
        names: &[String],
        templates: &Templates,
        mut progress: impl FnMut(usize),
    ) -> Result<Array2<f32>, EvalError> {
        let mut rows = Vec::with_capacity(names.len());
        let classes_per_chunk = (self.batch_size / templates.texts.len()).max(1);
        for chunk in names.chunks(classes_per_chunk) {
            let prompts: Vec<String> = chunk.iter().flat_map(|name| templates.prompts(name)).collect();
            let texts: Vec<&str> = prompts.iter().map(String::as_str).collect();
            let prompts_nd = self.embed(&texts, |row| EvalError::NonFinitePrompt { prompt: prompts[row].clone() })?;
            for start in (0..prompts.len()).step_by(templates.texts.len()) {
                let of_class = prompts_nd.slice(s![start..start + templates.texts.len(), ..]);
                let mut mean: Array1<f32> = of_class.sum_axis(ndarray::Axis(0));
                normalize(mean.view_mut());
                rows.push(mean);
            }
            progress(rows.len());
        }
        let views: Vec<_> = rows.iter().map(Array1::view).collect();
        Ok(ndarray::stack(ndarray::Axis(0), &views).expect("all classes have the network's width"))
    }
}

/// L2-normalises in place; a zero vector stays zero (and then ties with everything).
fn normalize(mut row: ArrayViewMut1<'_, f32>) {
    let norm = row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    if norm > tensor_math::NORM_EPS {
        row.mapv_inplace(|value| (f64::from(value) / norm) as f32);
    }
}

/// L2-normalised rows on the CPU, `[N, D]`. `non_finite` makes the error for a row whose squared norm
/// is not finite: it has a NaN or an infinity, or values that would overflow.
pub(super) fn normalized_rows(
    features_nd: &Tensor,
    non_finite: impl Fn(usize) -> EvalError,
) -> Result<Array2<f32>, EvalError> {
    let (n_rows, width) = features_nd.size2().unwrap_or_else(|_| panic!("features {:?}", features_nd.size()));
    let features_nd = tensor_math::at_least_f32(features_nd);
    let finite_n = features_nd.square().sum_dim_intlist([-1i64].as_slice(), false, None::<Kind>).isfinite();
    let finite: Vec<bool> = read(&finite_n);
    if let Some(row) = finite.iter().position(|finite| !finite) {
        return Err(non_finite(row));
    }
    let values = read(&tensor_math::l2_normalize(&features_nd).to_kind(Kind::Float));
    Ok(Array2::from_shape_vec((n_rows as usize, width as usize), values).expect("a tensor holds its shape"))
}

/// The values of a tensor in row-major order.
fn read<T>(tensor: &Tensor) -> Vec<T>
where
    Vec<T>: for<'a> TryFrom<&'a Tensor, Error = tch::TchError>,
{
    let flat = tensor.to_device(Device::Cpu).contiguous().view([-1]);
    Vec::<T>::try_from(&flat).unwrap_or_else(|error| panic!("a {:?} tensor is not readable: {error}", flat.kind()))
}
