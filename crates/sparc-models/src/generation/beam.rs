//! Beam search, as Hugging Face's `generate` does it with `early_stopping="never"`: several texts of an image grow
//! side by side, the most probable ones are kept, and the best of those that have ended wins.

use sparc_core::TextEnds;
use tch::Tensor;

use super::sample::{to_ids, to_numbers};
use super::{GeneratedText, Lengths, NextToken, log_probabilities};

pub(super) struct Search<'a> {
    pub decoder: &'a mut dyn NextToken,
    pub width: usize,
    pub length_penalty: f64,
    pub length: Lengths,
    pub ends: &'a TextEnds,
}

/// A text that grows. One of probability 0 holds a place that no text has taken.
#[derive(Clone)]
struct Beam {
    ids: Vec<i64>,
    log_probability: f64,
}

struct Image {
    index: usize,
    beams: Vec<Beam>,
    /// The best that have ended, with their scores, best first.
    ended: Vec<(f64, GeneratedText)>,
}

/// A way to go on: from which beam, with which token.
struct Candidate {
    beam: usize,
    token: i64,
    log_probability: f64,
}

impl Search<'_> {
    pub fn run(self, prompts: &[Vec<i64>]) -> Vec<GeneratedText> {
        let start = |index: usize| {
            // All beams are the same at first: all but one are out of the running.
            let beam =
                |i: usize| Beam { ids: Vec::new(), log_probability: if i == 0 { 0.0 } else { f64::NEG_INFINITY } };
            Image { index, beams: (0..self.width).map(beam).collect(), ended: Vec::new() }
        };
        let mut open: Vec<Image> = (0..prompts.len()).map(start).collect();
        let mut results: Vec<Option<GeneratedText>> = vec![None; prompts.len()];
        let mut tokens: Vec<i64> =
            prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt[0], self.width)).collect();
        for place in 1.. {
            let logits_rv = self.decoder.next(&Tensor::from_slice(&tokens));
            let candidates = self.candidates(&logits_rv, &open);
            // Rows of the images that go on, and from which of their beams.
            let (mut kept, mut from): (Vec<i64>, Vec<Vec<usize>>) = (Vec::new(), Vec::new());
            tokens.clear();
            let mut still_open = Vec::new();
            for (row, (mut image, candidates)) in open.into_iter().zip(candidates).enumerate() {
                if let Some(&forced) = prompts[image.index].get(place) {
                    tokens.extend(std::iter::repeat_n(forced, self.width));
                    from.push((0..self.width).collect());
                } else {
                    from.push(self.advance(&mut image, candidates));
                    if self.is_finished(&image) {
                        let index = image.index;
                        results[index] = Some(self.best(image));
                        from.pop();
                        continue;
                    }
                    tokens.extend(image.beams.iter().map(|beam| *beam.ids.last().expect("beams have grown")));
                }
                kept.push(row as i64);
                still_open.push(image);
            }
            if kept.is_empty() {
                break;
            }
            if logits_rv.size()[0] > tokens.len() as i64 {
                self.decoder.keep_images(&kept);
            }
            let width = self.width;
            let rows = from.iter().enumerate();
            let rows = rows.flat_map(|(row, from)| from.iter().map(move |beam| (row * width + beam) as i64));
            self.decoder.reorder(&rows.collect::<Vec<_>>());
            open = still_open;
        }
        results.into_iter().map(|text| text.expect("every image was finished")).collect()
    }

    /// The 2 × width most probable ways to go on, for each image, best first: enough to go on with width texts even
    /// if as many end.
    fn candidates(&self, logits_rv: &Tensor, open: &[Image]) -> Vec<Vec<Candidate>> {
        let n_pieces = logits_rv.size()[1];
        let n_images = open.len() as i64;
        let (_, free_rv) = log_probabilities(logits_rv, self.ends, true);
        let (_, early_rv) = log_probabilities(logits_rv, self.ends, false);
        let early: Vec<bool> = open.iter().map(|image| image.beams[0].ids.len() < self.length.min).collect();
        let per_image = [n_images, self.width as i64, n_pieces];
        let early = Tensor::from_slice(&early).to_device(free_rv.device()).view([-1, 1, 1]);
        let log = early_rv.view(per_image).where_self(&early, &free_rv.view(per_image));
        let so_far: Vec<f64> = open.iter().flat_map(|image| image.beams.iter().map(|b| b.log_probability)).collect();
        let so_far = Tensor::from_slice(&so_far).to_kind(log.kind()).to_device(log.device());
        let scores = (log + so_far.view([n_images, self.width as i64, 1])).view([n_images, -1]);
        let count = (2 * self.width as i64).min(scores.size()[1]);
        let (best, index) = scores.topk(count, 1, true, true);
        let (best, index) = (to_numbers(&best), to_ids(&index));
        best.chunks(count as usize)
            .zip(index.chunks(count as usize))
            .map(|(best, index)| {
                let candidate = |(&log_probability, &index): (&f64, &i64)| Candidate {
                    beam: (index / n_pieces) as usize,
                    token: index % n_pieces,
                    log_probability,
                };
                best.iter().zip(index).map(candidate).filter(|c| c.log_probability > f64::NEG_INFINITY).collect()
            })
            .collect()
    }

    /// Grows an image's beams; gives the beam that each new one goes on from.
    fn advance(&self, image: &mut Image, candidates: Vec<Candidate>) -> Vec<usize> {
        let (mut beams, mut from) = (Vec::new(), Vec::new());
        for (better, candidate) in candidates.into_iter().enumerate() {
            let mut ids = image.beams[candidate.beam].ids.clone();
            let log_probability = candidate.log_probability;
            if candidate.token == self.ends.end {
                // An end that is not among the width best is not worth a text.
                if better < self.width {
                    self.end(&mut image.ended, GeneratedText { ids, log_probability, ended: true });
                }
            } else if beams.len() < self.width {
                ids.push(candidate.token);
                beams.push(Beam { ids, log_probability });
                from.push(candidate.beam);
            }
        }
        while beams.len() < self.width {
            let mut ids = image.beams[0].ids.clone();
            ids.push(self.ends.end);
            beams.push(Beam { ids, log_probability: f64::NEG_INFINITY });
            from.push(0);
        }
        image.beams = beams;
        from
    }

    /// Files a text that has ended, or is cut.
    fn end(&self, ended: &mut Vec<(f64, GeneratedText)>, text: GeneratedText) {
        let score = self.score(text.log_probability, text.ids.len() + usize::from(text.ended));
        let place = ended.partition_point(|(other, _)| *other >= score);
        ended.insert(place, (score, text));
        ended.truncate(self.width);
    }

    fn score(&self, log_probability: f64, n_tokens: usize) -> f64 {
        log_probability / (n_tokens.max(1) as f64).powf(self.length_penalty)
    }

    /// Whether no beam can still become better than the texts that have ended.
    fn is_finished(&self, image: &Image) -> bool {
        let best = image.beams.iter().map(|beam| beam.log_probability).fold(f64::NEG_INFINITY, f64::max);
        let at_most = self.score(best, self.length.max);
        let full = image.ended.len() == self.width && image.ended.last().is_some_and(|(worst, _)| *worst >= at_most);
        full || best == f64::NEG_INFINITY || image.beams[0].ids.len() == self.length.max
    }

    fn best(&self, mut image: Image) -> GeneratedText {
        for Beam { ids, log_probability } in image.beams {
            if log_probability > f64::NEG_INFINITY && ids.len() == self.length.max {
                self.end(&mut image.ended, GeneratedText { ids, log_probability, ended: false });
            }
        }
        let nothing = GeneratedText { ids: Vec::new(), log_probability: f64::NEG_INFINITY, ended: false };
        image.ended.into_iter().next().map_or(nothing, |(_, text)| text)
    }
}
