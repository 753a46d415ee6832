//! The numbers of compositional tests, and their metric keys.

use serde::{Deserialize, Serialize};

use super::measured::{Measured, MetricKeys};

/// Compositional tests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompositionalResults {
    /// Images with a hard negative, a statement or half of a pair of captions.
    pub n_images: usize,
    /// Images left out because they have none.
    pub n_without_claims: usize,
    /// Halves of pairs of captions whose other half was not met.
    pub n_lone_caption_pairs: usize,
    /// By the pair score that the protocol names.
    pub by_score: ClaimResults,
    /// By the matching head, of networks with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_match: Option<ClaimResults>,
    /// By the matching head's log-odds and the pair score, added up, of networks with a matching head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_both: Option<ClaimResults>,
}

/// What one way of scoring pairs leads to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClaimResults {
    /// True captions among hard negatives, if there are any.
    pub hard_negatives: Option<HardNegativeResults>,
    /// All statements, if there are any.
    pub statements: Option<StatementResults>,
    /// Statements by source, in alphabetical order.
    pub statements_by_source: Vec<StatementResults>,
    /// Two images with two captions, by source, in alphabetical order.
    pub caption_pairs: Vec<CaptionPairResults>,
}

/// True captions among hard negatives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HardNegativeResults {
    /// All cases, however they are spread over sources.
    pub all: SourceResults,
    /// Unweighted mean of the sources' accuracies.
    pub mean_of_sources: Measured,
    /// By source, in alphabetical order.
    pub sources: Vec<SourceResults>,
}

/// Cases of one source, or all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceResults {
    /// The source.
    pub source: String,
    /// Cases.
    pub n_cases: usize,
    /// Share whose true caption scores best, ties by chance.
    pub accuracy: Measured,
    /// The same with ties as wrong.
    pub strict: f64,
    /// What a constant score gets.
    pub chance: f64,
}

/// Statements of one source, or all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatementResults {
    /// The source.
    pub source: String,
    /// Statements.
    pub n_statements: usize,
    /// Area under the ROC curve; absent unless there are true and false ones.
    pub area_under_roc: Option<Measured>,
    /// What the matching head says of each; absent of pair scores, which have no threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdicts: Option<StatementVerdicts>,
}

/// Statements judged true above a matching probability of 0.5.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatementVerdicts {
    /// Share judged right.
    pub accuracy: Measured,
    /// Share of true statements judged true (VALSE's p_c); absent without any.
    pub true_accepted: Option<f64>,
    /// Share of false statements judged false (p_f); absent without any.
    pub false_rejected: Option<f64>,
}

/// Items of two images with two captions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptionPairResults {
    /// The source.
    pub source: String,
    /// Items.
    pub n_items: usize,
    /// Share in which each image prefers its own caption, ties as wrong.
    pub text: Measured,
    /// Share in which each caption prefers its own image.
    pub image: Measured,
    /// Share in which both hold.
    pub group: Measured,
    /// The three with ties broken at random.
    pub with_ties_broken: [f64; 3],
}

/// Chance of the text, the image and the group score.
const PAIR_CHANCE: [f64; 3] = [1.0 / 4.0, 1.0 / 4.0, 1.0 / 6.0];

/// A key's `.n` is the number of cases, `.chance` what a constant score gets.
impl MetricKeys {
    fn source(&mut self, key: &str, source: &SourceResults) {
        self.measured(key, source.accuracy);
        self.detail(key, "n", source.n_cases as f64);
        self.detail(key, "chance", source.chance);
    }

    fn statements(&mut self, key: &str, accuracy_key: &str, statements: &StatementResults) {
        if let Some(area) = statements.area_under_roc {
            self.measured(key, area);
            self.detail(key, "n", statements.n_statements as f64);
        }
        let Some(verdicts) = &statements.verdicts else { return };
        self.measured(accuracy_key, verdicts.accuracy);
        self.detail(accuracy_key, "n", statements.n_statements as f64);
    }

    fn claims(&mut self, prefix: &str, claims: &ClaimResults) {
        if let Some(HardNegativeResults { all, mean_of_sources, sources }) = &claims.hard_negatives {
            let key = format!("{prefix}.negatives");
            self.source(&key, all);
            self.detail(&key, "strict", all.strict);
            if sources.len() > 1 {
                self.measured(&format!("{key}.mean_of_sources"), *mean_of_sources);
            }
            sources.iter().for_each(|source| self.source(&format!("{key}[{}]", source.source), source));
        }
        let key = |of: &str| (format!("{prefix}.statements{of}"), format!("{prefix}.statements_accuracy{of}"));
        let by_source = claims.statements_by_source.iter().map(|source| (format!("[{}]", source.source), source));
        for (of, statements) in claims.statements.iter().map(|all| (String::new(), all)).chain(by_source) {
            let (area, accuracy) = key(&of);
            self.statements(&area, &accuracy, statements);
        }
        for pairs in &claims.caption_pairs {
            let points = [("text", pairs.text), ("image", pairs.image), ("group", pairs.group)];
            for ((point, measured), chance) in points.into_iter().zip(PAIR_CHANCE) {
                let key = format!("{prefix}.pairs[{}].{point}", pairs.source);
                self.measured(&key, measured);
                self.detail(&key, "n", pairs.n_items as f64);
                self.detail(&key, "chance", chance);
            }
        }
    }
}

impl CompositionalResults {
    pub(super) fn metrics(&self, keys: &mut MetricKeys) {
        keys.claims("compositional", &self.by_score);
        if let Some(by_match) = &self.by_match {
            keys.claims("compositional.match", by_match);
        }
        if let Some(by_both) = &self.by_both {
            keys.claims("compositional.both", by_both);
        }
    }
}
