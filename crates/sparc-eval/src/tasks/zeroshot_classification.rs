//! Classification, zero-shot: the class whose text embedding is nearest to the pooled image embedding, or whose
//! prompts score highest on average. Or by the head of a network that was fine-tuned to tell these classes.

use ndarray::{Array2, ArrayView2, Axis};
use sparc_core::{Classify, EvalSample, ImageFeatures, PairScore, TextFeatures};
use tch::{Kind, Tensor};

use super::features::TextEmbedder;
use super::pair_scoring::text_scores;
use super::{ClassScore, ClassSet, ClassificationResults, EvalError, Task};
use crate::metrics::classification::ClassificationCounts;

pub(super) struct ClassificationTask<'a> {
    classes: &'a ClassSet,
    prompts: Prompts,
    counts: ClassificationCounts,
    n_without_class: usize,
}

/// The classes' texts.
enum Prompts {
    /// One pooled embedding a class, `[K, D]`.
    Pooled(Array2<f32>),
    /// The features of each class's prompts: where more than pooled embeddings is compared there is no mean
    /// embedding, and the scores are averaged instead (FILIP, section 3.3).
    Each(PairScore, Vec<TextFeatures>),
    /// None: the network has a head for the classes.
    Head,
}

impl<'a> ClassificationTask<'a> {
    /// Embeds the classes, once.
    pub fn new(
        classes: &'a ClassSet,
        score: PairScore,
        embedder: TextEmbedder<'_>,
        mut progress: impl FnMut(usize),
    ) -> Result<ClassificationTask<'a>, EvalError> {
        let prompts = if score == PairScore::Pooled {
            Prompts::Pooled(embedder.embed_classes(&classes.names, &classes.templates, progress)?)
        } else {
            let features = classes.names.iter().enumerate().map(|(index, name)| {
                let prompts = classes.templates.prompts(name);
                let texts: Vec<&str> = prompts.iter().map(String::as_str).collect();
                progress(index + 1);
                embedder.with_batch_size(texts.len()).features(&texts).next().expect("a class has a prompt")
            });
            Prompts::Each(score, features.collect())
        };
        let counts = ClassificationCounts::new(classes.names.len());
        Ok(ClassificationTask { classes, prompts, counts, n_without_class: 0 })
    }

    /// For the classes that a network was trained to tell.
    ///
    /// # Errors
    ///
    /// Other classes, or in another order.
    pub fn by_head(classes: &'a ClassSet, classifier: &dyn Classify) -> Result<ClassificationTask<'a>, EvalError> {
        let (trained, given) = (classifier.class_names(), &classes.names);
        if trained != given.as_slice() {
            let n_alike = trained.iter().zip(given).take_while(|(trained, given)| trained == given).count();
            let at = |names: &[String]| names.get(n_alike).cloned().unwrap_or_else(|| "none".to_owned());
            return Err(EvalError::OtherClasses {
                n_trained: trained.len(),
                n_given: given.len(),
                first: n_alike,
                trained: at(trained),
                given: at(given),
            });
        }
        let counts = ClassificationCounts::new(given.len());
        Ok(ClassificationTask { classes, prompts: Prompts::Head, counts, n_without_class: 0 })
    }

    /// Takes one batch's images `[B, 3, H, W]`, those of them that have a class.
    ///
    /// # Errors
    ///
    /// Scores that are not finite.
    pub fn add_by_head(
        &mut self,
        classifier: &dyn Classify,
        samples: &[EvalSample],
        images_bchw: &Tensor,
    ) -> Result<(), EvalError> {
        if samples.iter().all(|sample| sample.class.is_none()) {
            return Ok(());
        }
        let scores_bk = classifier.class_scores(images_bchw).to_kind(Kind::Float).contiguous();
        let scores = Vec::<f32>::try_from(scores_bk.view([-1])).expect("a tensor of numbers");
        for (sample, scores_k) in samples.iter().zip(scores.chunks(self.classes.names.len())) {
            let Some(class) = sample.class else { continue };
            if scores_k.iter().any(|score| !score.is_finite()) {
                return Err(EvalError::NonFinite { key: sample.key.clone(), what: "score of a class".to_owned() });
            }
            self.counts.add(scores_k.into(), class);
        }
        Ok(())
    }

    /// Counts what the sample lacks, and says whether it takes part.
    pub fn admit(&mut self, sample: &EvalSample) -> Result<bool, EvalError> {
        let n_classes = self.classes.names.len();
        match sample.class {
            Some(class) if class >= n_classes => {
                Err(EvalError::UnknownClass { key: sample.key.clone(), class, n_classes })
            }
            Some(_) => Ok(true),
            None => {
                self.n_without_class += 1;
                Ok(false)
            }
        }
    }

    /// Takes the images of one batch that have a class; `pair_features` of the same images, where they are
    /// compared.
    pub fn add_batch(
        &mut self,
        samples: &[&EvalSample],
        pooled_bd: ArrayView2<'_, f32>,
        pair_features: Option<&ImageFeatures>,
    ) -> Result<(), EvalError> {
        let scores_bk = match (&self.prompts, pair_features) {
            (Prompts::Pooled(classes_kd), _) => pooled_bd.dot(&classes_kd.t()),
            (Prompts::Each(score, classes), Some(features)) => {
                let mut scores_bk = Array2::zeros((samples.len(), classes.len()));
                for (prompts, mut scores_b) in classes.iter().zip(scores_bk.columns_mut()) {
                    let scores_bt = text_scores(*score, features, prompts)?;
                    scores_b.assign(&scores_bt.mean_axis(Axis(1)).expect("a class has a prompt"));
                }
                scores_bk
            }
            (Prompts::Each(..), None) => unreachable!("pair features come with the pair score"),
            (Prompts::Head, _) => unreachable!("a head reads images"),
        };
        for (sample, scores_k) in samples.iter().zip(scores_bk.rows()) {
            if let Some(class) = sample.class {
                let _ = self.counts.add(scores_k, class);
            }
        }
        Ok(())
    }

    pub fn finish(self, n_seen: usize) -> Result<ClassificationResults, EvalError> {
        let (Some(accuracy_1), Some(mean_per_class_recall)) =
            (self.counts.top_1(), self.counts.mean_per_class_recall())
        else {
            return Err(EvalError::NoUsableSample {
                task: Task::ZeroshotClassification,
                field: "class",
                needs: "a class index",
                n_images: n_seen,
            });
        };
        let per_class = self.classes.names.iter().zip(self.counts.recall_per_class());
        Ok(ClassificationResults {
            n_images: self.counts.n_samples(),
            n_classes: self.classes.names.len(),
            n_without_class: self.n_without_class,
            templates: self.classes.templates.clone(),
            by_head: matches!(self.prompts, Prompts::Head),
            accuracy_1,
            accuracy_5: self.counts.top_5(),
            mean_per_class_recall,
            recall_per_class: per_class.map(|(name, value)| ClassScore { name: name.clone(), value }).collect(),
        })
    }
}
