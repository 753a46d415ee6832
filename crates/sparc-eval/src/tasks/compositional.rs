//! Compositional tests: the true caption among hard negatives, statements that are true or false, and items of two
//! images with two captions (Winoground), by the pair score and, where the network has one, by its matching head and by the
//! sum of the two.
//!
//! The matching head judges by its log-odds, which rank as its probability does and do not saturate; a statement counts
//! as judged true above 0, which is a probability of 0.5. A pair score has no such threshold, and neither has the
//! sum, so that statements have an area under the ROC curve there, and no accuracy. Both halves of an item must be met
//! for it to count.

use std::collections::{BTreeMap, HashMap};

use sparc_core::{CaptionPair, EvalSample};

use super::compositional_results::{
    CaptionPairResults, ClaimResults, CompositionalResults, HardNegativeResults, SourceResults, StatementResults,
    StatementVerdicts,
};
use super::measured::{BOOTSTRAP, Measured};
use super::pair_judge::{PairJudge, PairJudgement, SeenImages};
use super::{EvalError, Task};
use crate::metrics::compositional::{HardNegatives, SourceAccuracy, Statements, Winoground};

/// Log-odds above which the matching head says that a pair belongs together.
const MATCHED: f32 = 0.0;

pub(super) struct CompositionalTask {
    n_images: usize,
    n_without_claims: usize,
    n_lone_pairs: usize,
    halves: HashMap<ItemId, Half>,
    by_score: Outcomes,
    by_match: Option<Outcomes>,
    by_both: Option<Outcomes>,
}

/// Source, name and both captions of an item: halves that name other captions never meet.
type ItemId = (String, String, [String; 2]);

/// The half that came first.
struct Half {
    caption: String,
    /// Its image with its own and with the other caption.
    judged: [PairJudgement; 2],
}

#[derive(Default)]
struct Outcomes {
    negatives: HardNegatives,
    statements: BTreeMap<String, Statements>,
    all_statements: Statements,
    items: BTreeMap<String, Winoground>,
}

fn item_id(pair: &CaptionPair) -> ItemId {
    let mut captions = [pair.caption.clone(), pair.other.clone()];
    captions.sort();
    (pair.source.clone(), pair.item.clone(), captions)
}

/// All texts that a sample's claims ask for.
fn texts(sample: &EvalSample) -> impl Iterator<Item = &str> {
    let negatives = sample.hard_negatives.iter().flat_map(|case| std::iter::once(&case.caption).chain(&case.negatives));
    let statements = sample.statements.iter().map(|statement| &statement.text);
    let pairs = sample.caption_pairs.iter().flat_map(|pair| [&pair.caption, &pair.other]);
    negatives.chain(statements).chain(pairs).map(String::as_str)
}

impl CompositionalTask {
    pub fn new(has_matcher: bool) -> CompositionalTask {
        CompositionalTask {
            n_images: 0,
            n_without_claims: 0,
            n_lone_pairs: 0,
            halves: HashMap::new(),
            by_score: Outcomes::default(),
            by_match: has_matcher.then(Outcomes::default),
            by_both: has_matcher.then(Outcomes::default),
        }
    }

    /// Whether the sample takes part.
    pub fn takes(sample: &EvalSample) -> bool {
        texts(sample).next().is_some()
    }

    /// Counts what the sample lacks, and says whether it takes part.
    pub fn admit(&mut self, sample: &EvalSample) -> bool {
        let takes_part = CompositionalTask::takes(sample);
        self.n_without_claims += usize::from(!takes_part);
        takes_part
    }

    /// Takes the images of one batch that take part.
    pub fn add_batch(
        &mut self,
        samples: &[&EvalSample],
        seen: &SeenImages,
        judge: &PairJudge<'_>,
    ) -> Result<(), EvalError> {
        let mut pairs: Vec<(usize, &str)> = Vec::new();
        // Many cases of an image have the same true caption.
        let mut places: HashMap<(usize, &str), usize> = HashMap::new();
        for (row, sample) in samples.iter().enumerate() {
            for text in texts(sample) {
                places.entry((row, text)).or_insert_with(|| {
                    pairs.push((row, text));
                    pairs.len() - 1
                });
            }
        }
        let judged = judge.judge(seen, &pairs)?;
        for (row, sample) in samples.iter().enumerate() {
            let judgement = |text: &str| judged[places[&(row, text)]];
            let image = self.n_images;
            self.n_images += 1;
            self.by_score.add(sample, image, &|text| judgement(text).among_texts);
            if let Some(by_match) = &mut self.by_match {
                by_match.add(sample, image, &|text| match_logit(&judgement(text)));
            }
            if let Some(by_both) = &mut self.by_both {
                by_both.add(sample, image, &|text| matched(judgement(text).match_and_score()));
            }
            for pair in &sample.caption_pairs {
                self.add_half(pair, [judgement(&pair.caption), judgement(&pair.other)]);
            }
        }
        Ok(())
    }

    fn add_half(&mut self, pair: &CaptionPair, judged: [PairJudgement; 2]) {
        let id = item_id(pair);
        match self.halves.remove(&id) {
            None => {
                self.halves.insert(id, Half { caption: pair.caption.clone(), judged });
            }
            // The same half again.
            Some(first) if first.caption == pair.caption => {
                self.n_lone_pairs += 1;
                self.halves.insert(id, first);
            }
            Some(first) => {
                // Caption 0 is that of the first image.
                let scores_ci = |score: &dyn Fn(&PairJudgement) -> f32| {
                    [[score(&first.judged[0]), score(&judged[1])], [score(&first.judged[1]), score(&judged[0])]]
                };
                let item = self.by_score.items.entry(pair.source.clone()).or_default();
                item.add(scores_ci(&|judged| judged.among_texts), scores_ci(&|judged| judged.among_images));
                if let Some(by_match) = &mut self.by_match {
                    let scores_ci = scores_ci(&match_logit);
                    by_match.items.entry(pair.source.clone()).or_default().add(scores_ci, scores_ci);
                }
                if let Some(by_both) = &mut self.by_both {
                    let among_texts = scores_ci(&|judged| matched(judged.match_and_score()));
                    let among_images = scores_ci(&|judged| matched(judged.match_and_score_among_images()));
                    by_both.items.entry(pair.source.clone()).or_default().add(among_texts, among_images);
                }
            }
        }
    }

    pub fn finish(self, n_seen: usize) -> Result<CompositionalResults, EvalError> {
        if self.by_score.is_empty() {
            return Err(EvalError::NoUsableSample {
                task: Task::Compositional,
                field: "hard_negatives, statements, caption_pairs",
                needs: "a hard negative, a statement or both halves of a pair of captions",
                n_images: n_seen,
            });
        }
        Ok(CompositionalResults {
            n_images: self.n_images,
            n_without_claims: self.n_without_claims,
            n_lone_caption_pairs: self.n_lone_pairs + self.halves.len(),
            by_score: self.by_score.results(None),
            by_match: self.by_match.map(|outcomes| outcomes.results(Some(MATCHED))),
            by_both: self.by_both.map(|outcomes| outcomes.results(None)),
        })
    }
}

fn match_logit(judgement: &PairJudgement) -> f32 {
    matched(judgement.match_logit)
}

fn matched(score: Option<f32>) -> f32 {
    score.expect("a network with a matching head judges by it")
}

impl Outcomes {
    fn is_empty(&self) -> bool {
        self.negatives.micro().is_none() && self.all_statements.is_empty() && self.items.is_empty()
    }

    fn add(&mut self, sample: &EvalSample, image: usize, score: &dyn Fn(&str) -> f32) {
        for case in &sample.hard_negatives {
            let wrong: Vec<f32> = case.negatives.iter().map(|negative| score(negative)).collect();
            self.negatives.add(&case.source, image, score(&case.caption), &wrong);
        }
        for statement in &sample.statements {
            let score = score(&statement.text);
            self.statements.entry(statement.source.clone()).or_default().add(image, score, statement.is_true);
            self.all_statements.add(image, score, statement.is_true);
        }
    }

    /// `threshold` is that above which a statement is judged true, where scores have one.
    fn results(&self, threshold: Option<f32>) -> ClaimResults {
        ClaimResults {
            hard_negatives: self.hard_negatives(),
            statements: (!self.all_statements.is_empty())
                .then(|| statements("all statements", &self.all_statements, threshold)),
            statements_by_source: (self.statements.iter())
                .map(|(source, of_source)| statements(source, of_source, threshold))
                .collect(),
            caption_pairs: self.items.iter().map(|(source, items)| caption_pairs(source, items)).collect(),
        }
    }

    fn hard_negatives(&self) -> Option<HardNegativeResults> {
        let negatives = &self.negatives;
        let source = |name: &str, of_source: SourceAccuracy, interval| SourceResults {
            source: name.to_owned(),
            n_cases: of_source.n_cases,
            accuracy: Measured { value: of_source.accuracy, interval },
            strict: of_source.strict,
            chance: of_source.chance,
        };
        Some(HardNegativeResults {
            all: source("all cases", negatives.micro()?, negatives.micro_interval(BOOTSTRAP)?),
            mean_of_sources: Measured {
                value: negatives.macro_accuracy()?,
                interval: negatives.macro_interval(BOOTSTRAP)?,
            },
            sources: (negatives.sources())
                .map(|name| Some(source(name, negatives.source(name)?, negatives.interval(name, BOOTSTRAP)?)))
                .collect::<Option<_>>()?,
        })
    }
}

fn statements(source: &str, statements: &Statements, threshold: Option<f32>) -> StatementResults {
    let measured = |value: Option<f64>, interval| Some(Measured { value: value?, interval: interval? });
    StatementResults {
        source: source.to_owned(),
        n_statements: statements.len(),
        area_under_roc: measured(statements.area_under_roc(), statements.area_interval(BOOTSTRAP)),
        verdicts: threshold.and_then(|threshold| {
            let accuracy = statements.accuracy(threshold)?;
            let interval = statements.accuracy_interval(threshold, BOOTSTRAP);
            Some(StatementVerdicts {
                accuracy: measured(Some(accuracy.accuracy), interval)?,
                true_accepted: accuracy.true_accepted,
                false_rejected: accuracy.false_rejected,
            })
        }),
    }
}

fn caption_pairs(source: &str, items: &Winoground) -> CaptionPairResults {
    let (strict, expected) = (items.strict().expect("an item"), items.expected().expect("an item"));
    let [text, image, group] = items.intervals(BOOTSTRAP).expect("an item");
    CaptionPairResults {
        source: source.to_owned(),
        n_items: items.n_items(),
        text: Measured { value: strict.text, interval: text },
        image: Measured { value: strict.image, interval: image },
        group: Measured { value: strict.group, interval: group },
        with_ties_broken: [expected.text, expected.image, expected.group],
    }
}
