//! Temperatures and biases that single objectives learn.

/// A learned number. Scales are learned as logarithms and clamped like the network's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LearnedScalar {
    /// SPARC's inverse temperature of the fine-grained loss, where it has one of its own.
    SparcLogitScale,
    /// SigLIP's inverse temperature.
    SiglipLogitScale,
    /// SigLIP's bias.
    SiglipLogitBias,
    /// FILIP's inverse temperature, where it has one of its own.
    FilipLogitScale,
    /// PACL's inverse temperature, where it has one of its own.
    PaclLogitScale,
    /// GLoRIA's τ₁.
    GloriaAttentionScale,
    /// GLoRIA's τ₂.
    GloriaWordScale,
    /// GLoRIA's τ₃.
    GloriaLogitScale,
    /// MGCA's inverse temperature of the token-wise alignment, where it has one of its own.
    MgcaTokenLogitScale,
    /// CLOC's inverse temperature of regions, where they have one of their own.
    ClocLogitScale,
}

impl LearnedScalar {
    /// Name of the parameter.
    pub fn name(self) -> &'static str {
        match self {
            LearnedScalar::SparcLogitScale => "sparc.logit_scale",
            LearnedScalar::SiglipLogitScale => "siglip.logit_scale",
            LearnedScalar::SiglipLogitBias => "siglip.logit_bias",
            LearnedScalar::FilipLogitScale => "filip.logit_scale",
            LearnedScalar::PaclLogitScale => "pacl.logit_scale",
            LearnedScalar::GloriaAttentionScale => "gloria.attention_scale",
            LearnedScalar::GloriaWordScale => "gloria.word_scale",
            LearnedScalar::GloriaLogitScale => "gloria.logit_scale",
            LearnedScalar::MgcaTokenLogitScale => "mgca.token_logit_scale",
            LearnedScalar::ClocLogitScale => "cloc.logit_scale",
        }
    }

    /// Whether the parameter is the logarithm of the number.
    pub fn is_scale(self) -> bool {
        self != LearnedScalar::SiglipLogitBias
    }
}
