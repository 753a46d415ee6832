//! Contrasts whose score of an image-text pair is more than a product of two vectors.
//!
//! Scores of all pairs are computed in blocks without a graph; the cross-entropies of the score matrix
//! give its gradient; then every block is computed once more, with a graph that is freed at once. Nothing
//! that a score needs for one pair (token-patch similarities, weights) is ever held for all pairs.

use tch::{Kind, Reduction, Tensor};

use super::{Gathered, chunks, wants_gradient, with_gradients};

/// A block's scores `[A, C]`, from A rows of the images' tensors, C rows of the texts' and the parameters.
pub(crate) type Score<'a> = dyn Fn(&[Tensor], &[Tensor], &[Tensor]) -> Tensor + 'a;

/// What is contrasted.
pub(crate) struct Pairs<'a> {
    /// Tensors with one row an image.
    pub images: &'a [Gathered<'a>],
    /// Tensors with one row a text; masks may be among them.
    pub texts: &'a [Gathered<'a>],
    /// Tensors without rows, such as temperatures.
    pub parameters: &'a [&'a Tensor],
    /// Index in the global batch of the first local row.
    pub row_offset: i64,
    /// How many images and texts make a block.
    pub block: (i64, i64),
    /// What the cross-entropies are multiplied by: here, and not outside, so that gradients are scaled while
    /// they are small.
    pub weight: f64,
}

/// The value of a symmetric contrast, with the accuracies inside the batch.
pub(crate) struct Contrast {
    /// Weight × (CE over texts of the local images + CE over images of the local texts).
    pub value: Tensor,
    pub image_to_text_accuracy: Tensor,
    pub text_to_image_accuracy: Tensor,
}

/// Scores all pairs as logits and contrasts them in both directions.
pub(crate) fn contrast(pairs: &Pairs, score: &Score) -> Contrast {
    let (b, n) = pairs.check();
    if b < n {
        return contrast_each(pairs, score, score);
    }
    let sides = Sides::local(pairs);
    // In one process both directions read the same matrix.
    let both = sides.scores(pairs, score).contrast(Directions { rows: Some(0), columns: Some(0) });
    let value = both.with_gradients(&sides);
    let [image_to_text_accuracy, text_to_image_accuracy] = both.accuracies;
    Contrast { value, image_to_text_accuracy, text_to_image_accuracy }
}

/// As [`contrast`], with a score of its own for each direction: of images over texts, of texts over images.
pub(crate) fn contrast_each(pairs: &Pairs, over_texts: &Score, over_images: &Score) -> Contrast {
    pairs.check();
    let (local, global) = (Sides::local(pairs), Sides::global(pairs));
    let parameters = || local.parameters.iter().map(Tensor::shallow_clone).collect();
    let copy = |side: &[Tensor]| side.iter().map(Tensor::shallow_clone).collect();
    let rows = Sides { images: copy(&local.images), texts: copy(&global.texts), parameters: parameters() };
    let columns = Sides { images: copy(&global.images), texts: copy(&local.texts), parameters: parameters() };
    let first = Some(pairs.row_offset);
    let by_row = rows.scores(pairs, over_texts).contrast(Directions { rows: first, columns: None });
    let by_column = columns.scores(pairs, over_images).contrast(Directions { rows: None, columns: first });
    let value = by_row.with_gradients(&rows) + by_column.with_gradients(&columns);
    let ([image_to_text_accuracy, _], [_, text_to_image_accuracy]) = (by_row.accuracies, by_column.accuracies);
    Contrast { value, image_to_text_accuracy, text_to_image_accuracy }
}

/// Images and texts of a block that holds `budget` numbers at `per_pair`: as many of the `n` texts as fit, then
/// images; at least one of each.
pub(crate) fn block_of(budget: i64, per_pair: i64, n_texts: i64) -> (i64, i64) {
    let texts = (budget / per_pair).min(n_texts).max(1);
    ((budget / (texts * per_pair)).max(1), texts)
}

impl Pairs<'_> {
    /// Local and global number of rows, B and N.
    fn check(&self) -> (i64, i64) {
        let sizes: Vec<_> = self.images.iter().chain(self.texts).map(|rows| rows.check_rows(self.row_offset)).collect();
        assert!(
            sizes.iter().all(|size| *size == sizes[0]) && sizes[0].0 > 0,
            "local and global rows of images and texts are {sizes:?}"
        );
        sizes[0]
    }
}

/// The tensors of a score matrix.
struct Sides {
    images: Vec<Tensor>,
    texts: Vec<Tensor>,
    parameters: Vec<Tensor>,
}

impl Sides {
    fn local(pairs: &Pairs) -> Sides {
        let side = |side: &[Gathered]| side.iter().map(|rows| rows.local.shallow_clone()).collect();
        Sides::new(pairs, side)
    }

    fn global(pairs: &Pairs) -> Sides {
        let side = |side: &[Gathered]| side.iter().map(|rows| rows.global.shallow_clone()).collect();
        Sides::new(pairs, side)
    }

    fn new(pairs: &Pairs, side: impl Fn(&[Gathered]) -> Vec<Tensor>) -> Sides {
        let parameters = pairs.parameters.iter().map(|parameter| parameter.shallow_clone()).collect();
        Sides { images: side(pairs.images), texts: side(pairs.texts), parameters }
    }

    fn all(&self) -> impl Iterator<Item = &Tensor> {
        self.images.iter().chain(&self.texts).chain(&self.parameters)
    }

    fn scores<'a>(&'a self, pairs: &Pairs, score: &'a Score<'a>) -> Scores<'a> {
        Scores { sides: self, block: pairs.block, weight: pairs.weight, score }
    }
}

/// Along which sides of the score matrix there is a contrast, each with the index of the first partner.
#[derive(Clone, Copy)]
struct Directions {
    rows: Option<i64>,
    columns: Option<i64>,
}

struct Scores<'a> {
    sides: &'a Sides,
    block: (i64, i64),
    weight: f64,
    score: &'a Score<'a>,
}

struct Scored {
    value: Tensor,
    /// Of rows and of columns; undefined where there is no contrast.
    accuracies: [Tensor; 2],
    /// Gradients of images, texts and parameters, if anything wants one.
    gradients: Option<[Vec<Option<Tensor>>; 3]>,
}

impl Scored {
    fn with_gradients(&self, sides: &Sides) -> Tensor {
        let value = self.value.shallow_clone();
        let Some(gradients) = &self.gradients else { return value };
        let gradients = gradients.iter().flatten().map(|gradient| gradient.as_ref().map(Tensor::shallow_clone));
        with_gradients(value, sides.all().zip(gradients))
    }
}

/// A block's inputs as leaves of a graph of its own, and its scores.
struct Block {
    leaves: [Vec<Tensor>; 3],
    scores_ac: Tensor,
}

impl Block {
    /// Adds the gradients of ⟨vector, scores⟩ to `sums` at the block's rows, and frees the graph.
    fn pull_back(self, vector_ac: &Tensor, sums: &mut [Vec<Option<Tensor>>; 3], rows: [Option<(i64, i64)>; 3]) {
        let leaves: Vec<&Tensor> = self.leaves.iter().flatten().filter(|leaf| leaf.requires_grad()).collect();
        let mut products = vector_jacobian_product(&self.scores_ac, &leaves, vector_ac).into_iter();
        for (sums, rows) in sums.iter_mut().zip(rows) {
            for sum in sums.iter_mut().flatten() {
                let Some(product) = products.next().flatten() else { continue };
                let mut place = rows.map_or_else(|| sum.shallow_clone(), |(start, size)| sum.narrow(0, start, size));
                place += product;
            }
        }
    }
}

fn vector_jacobian_product(output: &Tensor, inputs: &[&Tensor], vector: &Tensor) -> Vec<Option<Tensor>> {
    sparc_torch::vjp(&[output], inputs, &[vector]).expect("the graph is there, and shapes agree")
}

/// CE along rows + CE along columns, and both accuracies.
fn cross_entropies(scores_ac: &Tensor, directions: Directions) -> (Tensor, [Tensor; 2]) {
    let mut accuracies = [Tensor::new(), Tensor::new()];
    let mut value: Option<Tensor> = None;
    let sides = [(directions.rows, scores_ac.shallow_clone()), (directions.columns, scores_ac.tr())];
    for ((first, logits), accuracy) in sides.into_iter().zip(&mut accuracies) {
        let Some(first) = first else { continue };
        let labels = Tensor::arange_start(first, first + logits.size()[0], (Kind::Int64, logits.device()));
        *accuracy = logits.detach().argmax(1, false).eq_tensor(&labels).mean(Kind::Float);
        let loss = logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0);
        value = Some(value.map_or_else(|| loss.shallow_clone(), |value| value + &loss));
    }
    (value.expect("a contrast has a direction"), accuracies)
}

impl Scores<'_> {
    fn contrast(&self, directions: Directions) -> Scored {
        let Sides { images, texts, parameters } = self.sides;
        let (n_images, n_texts) = (images[0].size()[0], texts[0].size()[0]);
        let wanted = wants_gradient(self.sides.all());
        let blocks: Vec<(i64, i64, i64, i64)> = chunks(n_images, self.block.0)
            .flat_map(|(i, a)| chunks(n_texts, self.block.1).map(move |(j, c)| (i, a, j, c)))
            .collect();
        // A single block keeps its graph; several are computed again.
        let keeps = wanted && blocks.len() == 1;
        let mut kept = None;
        let mut rows = Vec::new();
        let mut row = Vec::new();
        for &(i, a, j, c) in &blocks {
            let block = self.block((i, a), (j, c), keeps);
            row.push(block.scores_ac.detach());
            if j + c == n_texts {
                rows.push(Tensor::cat(&std::mem::take(&mut row), 1));
            }
            kept = keeps.then_some(block);
        }
        let scores_ac = Tensor::cat(&rows, 0).set_requires_grad(wanted);
        let (value, accuracies) = cross_entropies(&scores_ac, directions);
        let value = value * self.weight;
        if !wanted {
            return Scored { value, accuracies, gradients: None };
        }
        let scores_gradient = vector_jacobian_product(&value, &[&scores_ac], &value.ones_like()).remove(0);
        let scores_gradient_ac = scores_gradient.expect("the loss depends on the scores");
        let mut gradients = [images, texts, parameters]
            .map(|side| side.iter().map(|input| input.requires_grad().then(|| input.detach().zeros_like())).collect());
        for &(i, a, j, c) in &blocks {
            let block = kept.take().unwrap_or_else(|| self.block((i, a), (j, c), true));
            let vector_ac = scores_gradient_ac.narrow(0, i, a).narrow(1, j, c);
            block.pull_back(&vector_ac, &mut gradients, [Some((i, a)), Some((j, c)), None]);
        }
        Scored { value: value.detach(), accuracies, gradients: Some(gradients) }
    }

    fn block(&self, (i, a): (i64, i64), (j, c): (i64, i64), with_graph: bool) -> Block {
        let leaf = |part: Tensor, input: &Tensor| part.detach().set_requires_grad(with_graph && input.requires_grad());
        let Sides { images, texts, parameters } = self.sides;
        let leaves = [
            images.iter().map(|input| leaf(input.narrow(0, i, a), input)).collect::<Vec<_>>(),
            texts.iter().map(|input| leaf(input.narrow(0, j, c), input)).collect(),
            parameters.iter().map(|input| leaf(input.shallow_clone(), input)).collect(),
        ];
        let score = || (self.score)(&leaves[0], &leaves[1], &leaves[2]);
        let scores_ac = if with_graph { tch::with_grad(score) } else { tch::no_grad(score) };
        assert_eq!(scores_ac.size(), [a, c], "scores of {a} images and {c} texts");
        Block { leaves, scores_ac }
    }
}

#[cfg(test)]
mod tests {
    use super::block_of;

    #[test]
    fn blocks_hold_the_budget_and_at_least_one_pair() {
        for (n_texts, expected) in [(64, (5, 64)), (2, (163, 2)), (2000, (1, 327)), (0, (327, 1))] {
            assert_eq!(block_of(1 << 20, 3200, n_texts), expected);
        }
        assert_eq!(block_of(100, 3200, 64), (1, 1));
    }
}
