//! A captioner as a source of next tokens, with a cache of keys and values and without.

use tch::Tensor;

use super::NextToken;
use crate::decoders::{TextDecoderCache, select};
use crate::layers::KeyValues;
use crate::networks::Coca;

// Dimension letters: b images, r rows, m image tokens, l tokens, w width, v vocabulary.

/// A decoder that keeps the keys and values of the tokens it has seen, and of the images once for all rows: a step
/// costs one token.
pub struct CachedDecoder<'a> {
    network: &'a Coca,
    text: Vec<Option<KeyValues>>,
    decoder: TextDecoderCache,
    position: i64,
    rows_per_image: i64,
}

impl<'a> CachedDecoder<'a> {
    /// For images whose tokens are `memory_bmw` ([`Coca::memory`]), with so many rows each.
    pub fn new(network: &'a Coca, memory_bmw: &Tensor, rows_per_image: usize) -> CachedDecoder<'a> {
        CachedDecoder {
            network,
            text: (0..network.text_tower.config().size.shape().depth).map(|_| None).collect(),
            decoder: tch::no_grad(|| network.text_decoder.start(memory_bmw)),
            position: 0,
            rows_per_image: rows_per_image as i64,
        }
    }
}

impl NextToken for CachedDecoder<'_> {
    fn next(&mut self, tokens_r: &Tensor) -> Tensor {
        let vocabulary_vw = self.network.vocabulary();
        let tokens_r = tokens_r.to_device(vocabulary_vw.device());
        let x_r1w = self.network.text_tower.forward_step(&tokens_r, self.position, &mut self.text);
        self.position += 1;
        self.network.text_decoder.forward_step(x_r1w, &mut self.decoder).matmul(&vocabulary_vw.tr())
    }

    fn reorder(&mut self, rows: &[i64]) {
        // Most steps of a beam search move no row.
        if rows.iter().enumerate().any(|(place, &row)| place as i64 != row) {
            let rows = Tensor::from_slice(rows).to_device(self.network.vocabulary().device());
            select(&mut self.text, &rows);
            self.decoder.select_rows(&rows);
        }
    }

    fn keep_images(&mut self, images: &[i64]) {
        let device = self.network.vocabulary().device();
        let rows = Tensor::from_slice(&rows_of(images, self.rows_per_image)).to_device(device);
        select(&mut self.text, &rows);
        self.decoder.select_rows(&rows);
        self.decoder.select_images(&Tensor::from_slice(images).to_device(device));
    }
}

/// A decoder that computes every text anew from its first token at each step: slow, and what the cached one is
/// checked against.
pub struct FullDecoder<'a> {
    network: &'a Coca,
    /// One row a row.
    memory_rmw: Tensor,
    ids_rl: Option<Tensor>,
    rows_per_image: i64,
}

impl<'a> FullDecoder<'a> {
    /// As [`CachedDecoder::new`].
    pub fn new(network: &'a Coca, memory_bmw: &Tensor, rows_per_image: usize) -> FullDecoder<'a> {
        let rows_per_image = rows_per_image as i64;
        let memory_rmw = memory_bmw.repeat_interleave_self_int(rows_per_image, 0, None);
        FullDecoder { network, memory_rmw, ids_rl: None, rows_per_image }
    }

    fn select(&mut self, rows: &[i64]) {
        let rows = Tensor::from_slice(rows).to_device(self.memory_rmw.device());
        self.memory_rmw = self.memory_rmw.index_select(0, &rows);
        self.ids_rl = self.ids_rl.take().map(|ids_rl| ids_rl.index_select(0, &rows));
    }
}

impl NextToken for FullDecoder<'_> {
    fn next(&mut self, tokens_r: &Tensor) -> Tensor {
        let tokens_r1 = tokens_r.to_device(self.memory_rmw.device()).unsqueeze(1);
        let ids_rl = match self.ids_rl.take() {
            None => tokens_r1,
            Some(ids_rl) => Tensor::cat(&[ids_rl, tokens_r1], 1),
        };
        let tokens_rlw = self.network.text_tower.forward_tokens(&ids_rl);
        let states_rlw = self.network.caption_states(&tokens_rlw, &self.memory_rmw);
        let last = ids_rl.size()[1] - 1;
        self.ids_rl = Some(ids_rl);
        states_rlw.select(1, last).matmul(&self.network.vocabulary().tr())
    }

    fn reorder(&mut self, rows: &[i64]) {
        self.select(rows);
    }

    fn keep_images(&mut self, images: &[i64]) {
        self.select(&rows_of(images, self.rows_per_image));
    }
}

/// The rows of these images.
fn rows_of(images: &[i64], rows_per_image: i64) -> Vec<i64> {
    images.iter().flat_map(|image| image * rows_per_image..(image + 1) * rows_per_image).collect()
}
