//! CoCa's attentional pooler: learned queries that look at tokens, of an image or of a decoder.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::layers::{CrossAttention, LayerNorm};
use crate::{Init, ParameterBuilder};

// Dimension letters: b batch, m tokens, q queries, w width.

/// How image tokens become what the decoder and the contrast see (Yu et al. 2022, section 3.2 and table 8c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooler {
    /// The decoder sees the patches, the contrast the tower's pooled vector: open_clip's `coca_base`.
    None,
    /// Two poolers read the patches.
    Parallel {
        /// Tokens that the decoder sees; 256 in the paper.
        queries: i64,
    },
    /// The contrast's pooler reads what the decoder's has given: the paper's models.
    Cascade {
        /// Tokens that the decoder sees; 256 in the paper.
        queries: i64,
    },
}

/// One layer of attention with learned queries, a layer norm before and after.
#[derive(Debug)]
pub struct AttentionalPooler {
    queries: Tensor,
    query_norm: LayerNorm,
    context_norm: LayerNorm,
    attention: CrossAttention,
    output_norm: LayerNorm,
}

impl AttentionalPooler {
    /// `n_queries` queries N(0, 1/w).
    pub fn new(builder: &ParameterBuilder, n_queries: i64, (width, heads): (i64, i64)) -> AttentionalPooler {
        let norm = |name: &str| LayerNorm::new(&builder.under(name), width);
        AttentionalPooler {
            queries: builder.create("queries", &[n_queries, width], Init::Normal((width as f64).powf(-0.5))),
            query_norm: norm("query_norm"),
            context_norm: norm("context_norm"),
            attention: CrossAttention::new(&builder.under("attn"), width, width, width, heads),
            output_norm: norm("norm"),
        }
    }

    /// `[B, M, W]` → `[B, Q, W]`; `mask` of the tokens is what [`crate::layers::key_mask`] gives, or none.
    pub fn forward(&self, tokens_bmw: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let queries_qw = self.query_norm.forward(&self.queries);
        let queries_bqw = queries_qw.unsqueeze(0).expand([tokens_bmw.size()[0], -1, -1], false);
        let pooled = self.attention.forward(&queries_bqw, &self.context_norm.forward(tokens_bmw), mask);
        self.output_norm.forward(&pooled)
    }
}
