//! Zero-shot classification: the class whose text embedding is nearest to the pooled image embedding.

use ndarray::{Array2, ArrayView2};
use sparc_core::EvalSample;

use super::features::TextEmbedder;
use super::{ClassScore, ClassSet, ClassificationResults, EvalError, Task};
use crate::metrics::classification::ClassificationCounts;

pub(super) struct ClassificationTask<'a> {
    classes: &'a ClassSet,
    classes_kd: Array2<f32>,
    counts: ClassificationCounts,
    n_without_class: usize,
}

impl<'a> ClassificationTask<'a> {
    /// Embeds the classes, once.
    pub fn new(
        classes: &'a ClassSet,
        embedder: TextEmbedder<'_>,
        progress: impl FnMut(usize),
    ) -> Result<ClassificationTask<'a>, EvalError> {
        let classes_kd = embedder.embed_classes(&classes.names, &classes.templates, progress)?;
        let counts = ClassificationCounts::new(classes.names.len());
        Ok(ClassificationTask { classes, classes_kd, counts, n_without_class: 0 })
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

    /// Takes the images of one batch that have a class.
    pub fn add_batch(&mut self, samples: &[&EvalSample], pooled_bd: ArrayView2<'_, f32>) {
        let scores_bk = pooled_bd.dot(&self.classes_kd.t());
        for (sample, scores_k) in samples.iter().zip(scores_bk.rows()) {
            if let Some(class) = sample.class {
                self.counts.add(scores_k, class);
            }
        }
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
            accuracy_1,
            accuracy_5: self.counts.top_5(),
            mean_per_class_recall,
            recall_per_class: per_class.map(|(name, value)| ClassScore { name: name.clone(), value }).collect(),
        })
    }
}
