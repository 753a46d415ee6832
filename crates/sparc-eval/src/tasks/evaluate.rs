//! One pass over the samples for all tasks.

use sparc_core::{Answer, Caption, Encoder, EvalSample, ImageFeatures, PairScore, PatchPath, Tokenize};
use tch::Tensor;

use super::captioning::CaptioningTask;
use super::compositional::CompositionalTask;
use super::features::{TextEmbedder, normalized_rows};
use super::heatmaps::{HeatmapSource, by_grad_cam, by_similarity};
use super::measured::BOOTSTRAP;
use super::pair_judge::{PairJudge, SeenImages};
use super::phrase_grounding::GroundingTask;
use super::regions::RegionsTask;
use super::retrieval::RetrievalTask;
use super::vqa::VqaTask;
use super::zeroshot_classification::ClassificationTask;
use super::zeroshot_segmentation::SegmentationTask;
use super::{EvalError, EvalRequest, EvalResults, Protocol};

/// How far an evaluation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Class prompts are being embedded; so many classes of so many are done.
    Classes {
        /// Done.
        n_done: usize,
        /// All.
        n_classes: usize,
    },
    /// So many images are done, those without annotations included.
    Images {
        /// Done.
        n_done: usize,
    },
    /// All images are done; retrieval ranks are being computed.
    Ranking,
    /// The matching head orders first candidates anew; so many queries of so many are done.
    Reranking {
        /// Done.
        n_done: usize,
        /// Images and captions.
        n_queries: usize,
    },
}

/// Runs the requested tasks in one pass over the samples, without gradients.
///
/// Images are encoded `batch_size` at a time; those that no task can use are not encoded at all.
/// Memory holds one batch, and for retrieval the pooled embeddings of all images and captions; with re-ranking, the
/// tokens of all of them.
///
/// # Errors
///
/// See [`EvalError`]; the first error ends the evaluation.
///
/// # Panics
///
/// If the network's outputs have shapes that contradict each other.
pub fn evaluate<E>(
    encoder: &dyn Encoder,
    tokenizer: &dyn Tokenize,
    samples: impl Iterator<Item = Result<EvalSample, E>>,
    request: &EvalRequest,
    progress: &mut dyn FnMut(Progress),
) -> Result<EvalResults, EvalError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    request.check()?;
    tch::no_grad(|| {
        let mut tasks = Tasks::new(encoder, tokenizer, request, progress)?;
        let mut batch = Vec::with_capacity(request.batch_size);
        let mut n_images = 0;
        for sample in samples {
            let sample = sample.map_err(|error| EvalError::Source(error.into()))?;
            n_images += 1;
            if tasks.admit(&sample)? {
                batch.push(sample);
            }
            if batch.len() == request.batch_size {
                tasks.add_batch(&batch)?;
                batch.clear();
                progress(Progress::Images { n_done: n_images });
            }
        }
        if !batch.is_empty() {
            tasks.add_batch(&batch)?;
        }
        progress(Progress::Images { n_done: n_images });
        tasks.finish(n_images, progress)
    })
}

struct Tasks<'a> {
    encoder: &'a dyn Encoder,
    embedder: TextEmbedder<'a>,
    request: &'a EvalRequest,
    retrieval: Option<RetrievalTask>,
    classification: Option<ClassificationTask<'a>>,
    segmentation: Option<SegmentationTask<'a>>,
    grounding: Option<GroundingTask>,
    heatmaps: HeatmapSource<'a>,
    regions: Option<RegionsTask<'a>>,
    compositional: Option<CompositionalTask>,
    captioning: Option<(CaptioningTask, &'a dyn Caption)>,
    vqa: Option<(VqaTask<'a>, &'a dyn Answer)>,
}

impl<'a> Tasks<'a> {
    fn new(
        encoder: &'a dyn Encoder,
        tokenizer: &'a dyn Tokenize,
        request: &'a EvalRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Tasks<'a>, EvalError> {
        let embedder = TextEmbedder::new(encoder, tokenizer, request);
        let mut n_before = 0;
        let n_classes = request.classification.as_ref().map_or(0, |classes| classes.names.len())
            + request.segmentation.as_ref().map_or(0, |classes| classes.names.len());
        let mut classification = None;
        if let Some(classes) = &request.classification {
            classification = Some(match encoder.classifier() {
                Some(classifier) => ClassificationTask::by_head(classes, classifier)?,
                None => ClassificationTask::new(classes, request.pair_score, embedder, |n_done| {
                    progress(Progress::Classes { n_done, n_classes });
                })?,
            });
            n_before = classes.names.len();
        }
        let mut segmentation = None;
        if let Some(classes) = &request.segmentation {
            segmentation = Some(SegmentationTask::new(classes, request.upsampling, embedder, |n_done| {
                progress(Progress::Classes { n_done: n_before + n_done, n_classes });
            })?);
        }
        let captioning = if request.captioning {
            Some((CaptioningTask::default(), encoder.captioner().ok_or(EvalError::NoCaptioner)?))
        } else {
            None
        };
        let vqa = match &request.vqa {
            Some(vqa) => Some((VqaTask::new(vqa), encoder.answerer().ok_or(EvalError::NoAnswerer)?)),
            None => None,
        };
        if request.rerank.is_some() && encoder.matcher().is_none() {
            return Err(EvalError::NoMatcher { what: "re-ranking", instead: "ask for retrieval alone" });
        }
        Ok(Tasks {
            encoder,
            embedder,
            request,
            retrieval: request.retrieval.then(|| RetrievalTask::new(request.pair_score, request.rerank)),
            classification,
            segmentation,
            grounding: request.grounding.then(|| GroundingTask::new(request.heatmap_threshold)),
            heatmaps: request.heatmaps.source(encoder.matcher())?,
            regions: request.regions.as_ref().map(|regions| RegionsTask::new(regions, encoder)),
            compositional: request.compositional.then(|| CompositionalTask::new(encoder.matcher().is_some())),
            captioning,
            vqa,
        })
    }

    /// Counts what the sample lacks, and says whether any task can use it.
    fn admit(&mut self, sample: &EvalSample) -> Result<bool, EvalError> {
        // Every task must hear of every sample, so no lazy `||` here.
        let mut is_wanted = false;
        if let Some(task) = &mut self.retrieval {
            is_wanted |= task.admit(sample);
        }
        if let Some(task) = &mut self.classification {
            is_wanted |= task.admit(sample)?;
        }
        if let Some(task) = &mut self.segmentation {
            is_wanted |= task.admit(sample);
        }
        if let Some(task) = &mut self.grounding {
            is_wanted |= task.admit(sample);
        }
        if let Some(task) = &mut self.regions {
            is_wanted |= task.admit(sample);
        }
        if let Some(task) = &mut self.compositional {
            is_wanted |= task.admit(sample);
        }
        if let Some((task, _)) = &mut self.captioning {
            is_wanted |= task.admit(sample);
        }
        if let Some((task, _)) = &mut self.vqa {
            is_wanted |= task.admit(sample);
        }
        Ok(is_wanted)
    }

    fn add_batch(&mut self, samples: &[EvalSample]) -> Result<(), EvalError> {
        let images_bchw = self.stack(samples)?;
        if let Some((task, captioner)) = &mut self.captioning {
            task.add_batch(*captioner, samples, &images_bchw);
        }
        if let Some((task, answerer)) = &mut self.vqa {
            task.add_batch(*answerer, samples, &images_bchw);
        }
        let classifier = self.encoder.classifier();
        if let (Some(task), Some(classifier)) = (&mut self.classification, classifier) {
            task.add_by_head(classifier, samples, &images_bchw)?;
        }
        let classifies_pooled = self.classification.is_some() && classifier.is_none();
        let is_pooled = self.retrieval.is_some() || classifies_pooled || self.compositional.is_some();
        let is_local = self.segmentation.is_some() || self.grounding.is_some();
        if !is_pooled && !is_local && self.regions.is_none() {
            return Ok(());
        }
        let (features, tokens_bmc) = self.see(&images_bchw);
        if is_pooled {
            self.add_pooled(samples, &images_bchw, &features, tokens_bmc.as_ref())?;
        }
        if let Some(task) = &mut self.regions {
            task.add_batch(samples, &images_bchw, &features, self.embedder, self.request)?;
        }
        if self.segmentation.is_some() || self.grounding.is_some() {
            for (index, sample) in samples.iter().enumerate() {
                self.add_patches(sample, &features, tokens_bmc.as_ref(), index)?;
            }
        }
        Ok(())
    }

    /// The images of a batch, `[B, 3, H, W]`, where the network lies.
    fn stack(&self, samples: &[EvalSample]) -> Result<Tensor, EvalError> {
        let (height, width) = self.encoder.image_size();
        let expected = [3, height, width];
        for sample in samples {
            let found = sample.image_chw.size();
            if found != expected {
                return Err(EvalError::ImageShape { key: sample.key.clone(), found, expected });
            }
        }
        let images: Vec<&Tensor> = samples.iter().map(|sample| &sample.image_chw).collect();
        Ok(Tensor::stack(&images, 0).to_device(self.request.device))
    }

    fn encode(&self, images_bchw: &Tensor, path: PatchPath) -> ImageFeatures {
        checked(self.encoder.encode_images(images_bchw, path), images_bchw.size()[0])
    }

    /// The features of the images, and what matching reads of them where a task asks for it.
    fn see(&self, images_bchw: &Tensor) -> (ImageFeatures, Option<Tensor>) {
        let path = self.request.patch_path;
        let heats = self.grounding.is_some() && matches!(self.heatmaps, HeatmapSource::GradCam { .. });
        let is_matched = self.compositional.is_some() || self.request.rerank.is_some() || heats;
        match self.encoder.matcher().filter(|_| is_matched) {
            None => (self.encode(images_bchw, path), None),
            Some(matcher) => {
                let (features, tokens_bmc) = matcher.features_and_tokens(images_bchw, path);
                (checked(features, images_bchw.size()[0]), Some(tokens_bmc))
            }
        }
    }

    fn add_pooled(
        &mut self,
        samples: &[EvalSample],
        images_bchw: &Tensor,
        features: &ImageFeatures,
        tokens_bmc: Option<&Tensor>,
    ) -> Result<(), EvalError> {
        // Patches are compared as the objective saw them.
        let compared = match (self.request.pair_score, self.request.patch_path) {
            (PairScore::Pooled, _) => None,
            (_, PatchPath::Local) => Some(features.shallow_clone()),
            (_, PatchPath::Global) => Some(self.encode(images_bchw, PatchPath::Local)),
        };
        let tokens_bmc = tokens_bmc.map(Tensor::shallow_clone);
        let keys = samples.iter().map(|sample| sample.key.clone()).collect();
        let seen = SeenImages::new(keys, &features.pooled_bd, compared, tokens_bmc)?;
        // Each task sees its own rows: an image without a caption may still have a class.
        let rows_where = |is_wanted: &dyn Fn(&EvalSample) -> bool| {
            let rows: Vec<usize> = (0..samples.len()).filter(|&row| is_wanted(&samples[row])).collect();
            let chosen: Vec<&EvalSample> = rows.iter().map(|&row| &samples[row]).collect();
            (chosen, seen.select(&rows))
        };
        if let Some(task) = &mut self.retrieval {
            let (samples, seen) = rows_where(&RetrievalTask::takes);
            task.add_batch(&samples, &seen, self.embedder)?;
        }
        if let (Some(task), None) = (&mut self.classification, self.encoder.classifier()) {
            let (samples, seen) = rows_where(&|sample| sample.class.is_some());
            task.add_batch(&samples, seen.pooled_bd.view(), seen.compared.as_ref())?;
        }
        if let Some(task) = &mut self.compositional {
            let (samples, seen) = rows_where(&CompositionalTask::takes);
            task.add_batch(&samples, &seen, &PairJudge::of(self.embedder, self.request.pair_score))?;
        }
        Ok(())
    }

    fn add_patches(
        &mut self,
        sample: &EvalSample,
        features: &ImageFeatures,
        tokens_bmc: Option<&Tensor>,
        index: usize,
    ) -> Result<(), EvalError> {
        if sample.segmentation.is_none() && sample.regions.is_none() {
            return Ok(());
        }
        let patches_pd = normalized_rows(&features.patches_bpd.get(index as i64), |patch| EvalError::NonFinite {
            key: sample.key.clone(),
            what: format!("embedding of patch {patch}"),
        })?;
        if let Some(task) = &mut self.segmentation {
            task.add_image(sample, patches_pd.view(), features.grid)?;
        }
        if let Some(task) = &mut self.grounding {
            let (height, width) = self.encoder.image_size();
            let size = (height as usize, width as usize);
            let (embedder, key) = (self.embedder, &sample.key);
            match self.heatmaps {
                HeatmapSource::GradCam { matcher, layer } => {
                    let tokens_mc = tokens_bmc.expect("tokens of the matcher").get(index as i64);
                    task.add_image(sample, matcher.grid(), size, |phrases| {
                        by_grad_cam(embedder, key, (matcher, layer), &tokens_mc, phrases)
                    })?;
                }
                HeatmapSource::Similarity => task.add_image(sample, features.grid, size, |phrases| {
                    by_similarity(embedder, key, patches_pd.view(), phrases)
                })?,
            }
        }
        Ok(())
    }

    fn finish(self, n_images: usize, progress: &mut dyn FnMut(Progress)) -> Result<EvalResults, EvalError> {
        if n_images == 0 {
            return Err(EvalError::NoImages);
        }
        if self.retrieval.is_some() {
            progress(Progress::Ranking);
        }
        Ok(EvalResults {
            n_images,
            protocol: Protocol {
                pair_score: self.request.pair_score.name().to_owned(),
                patch_path: match self.request.patch_path {
                    PatchPath::Global => "global".to_owned(),
                    PatchPath::Local => "local".to_owned(),
                },
                upsampling: self.request.upsampling,
                heatmaps: self.heatmaps.protocol(),
                heatmap_threshold: self.request.heatmap_threshold,
                intervals: BOOTSTRAP,
            },
            retrieval: self.retrieval.map(|task| task.finish(n_images, self.embedder, progress)).transpose()?,
            classification: self.classification.map(|task| task.finish(n_images)).transpose()?,
            segmentation: self.segmentation.map(|task| task.finish(n_images)).transpose()?,
            grounding: self.grounding.map(|task| task.finish(n_images)).transpose()?,
            regions: self.regions.map(|task| task.finish(n_images, self.embedder)).transpose()?,
            compositional: self.compositional.map(|task| task.finish(n_images)).transpose()?,
            captioning: self.captioning.map(|(task, _)| task.finish(n_images)).transpose()?,
            vqa: self.vqa.map(|(task, _)| task.finish(n_images)).transpose()?,
        })
    }
}

/// Features of shapes that fit each other.
fn checked(features: ImageFeatures, n_samples: i64) -> ImageFeatures {
    let (pooled, patches) = (features.pooled_bd.size(), features.patches_bpd.size());
    assert!(
        pooled.len() == 2 && pooled[0] == n_samples,
        "pooled features {pooled:?} of {n_samples} images are not [B, D]"
    );
    assert!(
        patches.len() == 3 && patches[0] == n_samples && patches[1] == features.grid.len(),
        "patch features {patches:?} of {n_samples} images on {:?} are not [B, P, D]",
        features.grid
    );
    features
}
