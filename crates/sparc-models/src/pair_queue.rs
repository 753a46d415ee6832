//! Queues of earlier embeddings: the keys that a contrast has beyond its batch (He et al. 2020, MoCo; ALBEF).

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::differences;

// Dimension letters: q places of the queue, n pairs, d width.

/// The latest Q pairs of image and text embeddings with the ids of their images, in a ring. It starts empty.
#[derive(Debug)]
pub struct PairQueue {
    image_qd: Tensor,
    text_qd: Tensor,
    ids_q: Tensor,
    /// Where the next pair goes.
    next: i64,
    /// How many places hold a pair.
    filled: i64,
}

/// The keys of a queue: views, which the next [`PairQueue::enqueue`] changes.
#[derive(Debug)]
pub struct QueuedKeys {
    /// Image embeddings, `[filled, D]`.
    pub image_qd: Tensor,
    /// Text embeddings, `[filled, D]`.
    pub text_qd: Tensor,
    /// Which image each pair is of, `[filled]`, `i64`.
    pub ids_q: Tensor,
}

impl PairQueue {
    /// An empty queue of `size` places; 0 keeps nothing.
    ///
    /// # Panics
    ///
    /// If the size is negative.
    pub fn new(size: i64, width: i64, kind: Kind, device: Device) -> PairQueue {
        assert!(size >= 0, "a queue of {size} places");
        let features = || Tensor::zeros([size, width], (kind, device));
        PairQueue {
            image_qd: features(),
            text_qd: features(),
            ids_q: Tensor::zeros([size], (Kind::Int64, device)),
            next: 0,
            filled: 0,
        }
    }

    /// The keys there are.
    pub fn keys(&self) -> QueuedKeys {
        let filled = |x: &Tensor| x.narrow(0, 0, self.filled);
        QueuedKeys { image_qd: filled(&self.image_qd), text_qd: filled(&self.text_qd), ids_q: filled(&self.ids_q) }
    }

    /// Puts pairs in, without their gradients, in place of the oldest. To be called after the loss has been computed:
    /// before it, each row would have itself among its keys. Of more pairs than places the last stay.
    ///
    /// # Shapes
    ///
    /// `image_nd` and `text_nd` `[N, D]`, `ids_n [N]`, `i64`: of the global batch, so that every process has one queue.
    ///
    /// # Panics
    ///
    /// If shapes disagree.
    pub fn enqueue(&mut self, image_nd: &Tensor, text_nd: &Tensor, ids_n: &Tensor) {
        let (size, width) = self.image_qd.size2().expect("a queue is [Q, D]");
        let n = ids_n.size()[0];
        assert!(
            image_nd.size() == [n, width] && text_nd.size() == [n, width],
            "{n} pairs for a queue of width {width}: images are {:?}, texts {:?}",
            image_nd.size(),
            text_nd.size()
        );
        let kept = n.min(size);
        if kept == 0 {
            return;
        }
        let places = (Tensor::arange(kept, (Kind::Int64, self.ids_q.device())) + self.next).remainder(size);
        tch::no_grad(|| {
            for (own, rows) in [(&mut self.image_qd, image_nd), (&mut self.text_qd, text_nd), (&mut self.ids_q, ids_n)]
            {
                let latest = rows.detach().narrow(0, n - kept, kept).to_kind(own.kind());
                let _ = own.index_copy_(0, &places, &latest);
            }
        });
        self.next = (self.next + kept) % size;
        self.filled = (self.filled + kept).min(size);
    }

    /// Everything that a checkpoint must hold, by name.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let named = |name: &str, tensor: &Tensor| (name.to_owned(), tensor.shallow_clone());
        BTreeMap::from([
            named("image", &self.image_qd),
            named("text", &self.text_qd),
            named("ids", &self.ids_q),
            named("next_and_filled", &Tensor::from_slice(&[self.next, self.filled])),
        ])
    }

    /// Takes over a state.
    ///
    /// # Errors
    ///
    /// Every difference in names, shapes and kinds, or places outside the queue; nothing has been copied then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), Vec<String>> {
        let found = differences(&self.state(), state);
        if !found.is_empty() {
            return Err(found);
        }
        let place = |index: i64| state["next_and_filled"].int64_value(&[index]);
        let (next, filled, size) = (place(0), place(1), self.ids_q.size()[0]);
        if !(0..=size).contains(&filled) || !(0..size.max(1)).contains(&next) || (filled < size && next != filled) {
            return Err(vec![format!("next_and_filled: {next} and {filled} are no places of a queue of {size}")]);
        }
        tch::no_grad(|| {
            self.image_qd.copy_(&state["image"]);
            self.text_qd.copy_(&state["text"]);
            self.ids_q.copy_(&state["ids"]);
        });
        (self.next, self.filled) = (next, filled);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use sparc_core::Gathered;
    use sparc_core::objectives::albef::{ContrastInputs, Positives, contrast};
    use sparc_testing::{random, values};

    use super::*;
    use crate::weights;

    /// Pairs whose embeddings are their ids: images as they are, texts negative.
    fn pairs(ids: &[i64]) -> (Tensor, Tensor, Tensor) {
        let ids = Tensor::from_slice(ids);
        let image = ids.to_kind(Kind::Double).unsqueeze(1);
        (image.shallow_clone(), -image, ids)
    }

    fn enqueue(queue: &mut PairQueue, ids: &[i64]) {
        let (image, text, ids) = pairs(ids);
        queue.enqueue(&image, &text, &ids);
    }

    fn held(queue: &PairQueue) -> Vec<i64> {
        let keys = queue.keys();
        let ids: Vec<f64> = values(&keys.ids_q);
        assert_eq!((values(&keys.image_qd), values(&-keys.text_qd)), (ids.clone(), ids.clone()));
        ids.into_iter().map(|id| id as i64).collect()
    }

    #[test]
    fn a_queue_fills_wraps_around_and_forgets_the_oldest() {
        let mut queue = PairQueue::new(5, 1, Kind::Double, Device::Cpu);
        assert!(held(&queue).is_empty());
        enqueue(&mut queue, &[1, 2, 3]);
        assert_eq!(held(&queue), [1, 2, 3]);
        // Sizes need not divide: 4 and 5 fill it, 6 goes to the front.
        enqueue(&mut queue, &[4, 5, 6]);
        assert_eq!(held(&queue), [6, 2, 3, 4, 5]);
        enqueue(&mut queue, &[7, 8, 9]);
        assert_eq!(held(&queue), [6, 7, 8, 9, 5]);
        // More than it holds: the last five stay.
        enqueue(&mut queue, &[10, 11, 12, 13, 14, 15, 16]);
        let mut now = held(&queue);
        now.sort_unstable();
        assert_eq!(now, [12, 13, 14, 15, 16]);
        enqueue(&mut queue, &[]);
        assert_eq!(held(&queue).len(), 5);
        let mut none = PairQueue::new(0, 1, Kind::Double, Device::Cpu);
        enqueue(&mut none, &[1, 2]);
        assert!(held(&none).is_empty());
    }

    #[test]
    fn what_is_put_in_after_the_loss_does_not_reach_it() {
        let ids = Tensor::from_slice(&[1i64, 2, 3]);
        let (image, text) = (random(&[3, 4], 1), random(&[3, 4], 2));
        let gradient = |late: bool| {
            let mut queue = PairQueue::new(4, 4, Kind::Double, Device::Cpu);
            queue.enqueue(&random(&[4, 4], 3), &random(&[4, 4], 4), &Tensor::from_slice(&[7i64, 8, 9, 10]));
            let keys = queue.keys();
            let leaf = image.copy().set_requires_grad(true);
            let loss = contrast(
                &ContrastInputs {
                    image_bd: &leaf,
                    text_bd: &text,
                    momentum_image: Gathered::single(&image),
                    momentum_text: Gathered::single(&text),
                    image_queue_qd: &keys.image_qd,
                    text_queue_qd: &keys.text_qd,
                    image_ids: Gathered::single(&ids),
                    queue_ids_q: &keys.ids_q,
                    edited: None,
                    row_offset: 0,
                    logit_scale: &Tensor::from(5.0f64),
                },
                Positives::Pair,
                0.4,
            );
            if late {
                queue.enqueue(&leaf, &text, &ids);
                assert!(!queue.keys().image_qd.requires_grad());
            }
            loss.value.backward();
            (values(&loss.value), values(&leaf.grad()))
        };
        assert_eq!(gradient(true), gradient(false));
    }

    #[test]
    fn a_queue_resumes_exactly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.safetensors");
        let new = || PairQueue::new(5, 1, Kind::Double, Device::Cpu);
        for before in [&[1i64, 2, 3][..], &[1, 2, 3, 4, 5, 6, 7]] {
            let mut queue = new();
            enqueue(&mut queue, before);
            let state = queue.state();
            weights::save(&path, state.iter().map(|(name, tensor)| (name.as_str(), tensor)), HashMap::new()).unwrap();
            let mut resumed = new();
            resumed.load_state(&weights::load(&path).unwrap()).unwrap();
            for queue in [&mut queue, &mut resumed] {
                enqueue(queue, &[8, 9, 10, 11]);
            }
            assert_eq!(held(&resumed), held(&queue));
        }
    }

    #[test]
    fn a_wrong_state_is_named() {
        let mut queue = PairQueue::new(5, 1, Kind::Double, Device::Cpu);
        let found = queue.load_state(&PairQueue::new(4, 1, Kind::Double, Device::Cpu).state()).unwrap_err();
        assert!(found.len() == 3 && found[1].contains("image is [4, 1] in the file"), "{found:?}");
        for places in [[5i64, 5], [0, 6], [-1, 0], [3, 2]] {
            let mut state = queue.state();
            state.insert("next_and_filled".into(), Tensor::from_slice(&places));
            assert!(queue.load_state(&state).unwrap_err()[0].contains("queue of 5"), "{places:?}");
        }
    }
}
