//! Image-text retrieval with several captions per image.
//!
//! Recall@K as CLIP_benchmark counts it: an image is found if *any* of its own captions is among the
//! first K texts; a caption is found if its *one* image is among the first K images; the mean over
//! queries. Ties are resolved by expectation (see [`crate::metrics`]), never by index.

use ndarray::{ArrayView2, s};

use super::TiedRank;

// Dimension letters: n images, m texts, d width.

/// One rank per query, both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrievalRanks {
    /// The best own caption among all texts, for every image that owns one, in image order.
    pub image_to_text: Vec<TiedRank>,
    /// The own image among all images, for every text.
    pub text_to_image: Vec<TiedRank>,
}

/// Ranks all texts for every image and all images for every text by the dot product of the given
/// embeddings (cosine, if they are L2-normalised).
///
/// Scores are computed in blocks of whole rows with at most `max_scores` numbers (at least one row),
/// so memory does not grow with N × M. Each direction computes its own blocks: a query's scores then
/// all come from the same product, and equal embeddings tie exactly.
///
/// # Shapes
///
/// `images_nd [N, D]`, `texts_md [M, D]`, `image_of_text [M]` with values below N.
///
/// # Panics
///
/// If the shapes disagree, an image index is out of range, or a score is NaN.
pub fn retrieval_ranks(
    images_nd: ArrayView2<'_, f32>,
    texts_md: ArrayView2<'_, f32>,
    image_of_text: &[usize],
    max_scores: usize,
) -> RetrievalRanks {
    let (n_images, n_texts) = (images_nd.nrows(), texts_md.nrows());
    assert_eq!(images_nd.ncols(), texts_md.ncols(), "width of {n_images} images and of {n_texts} texts");
    assert_eq!(n_texts, image_of_text.len(), "one image index per text");
    for (text, &image) in image_of_text.iter().enumerate() {
        assert!(image < n_images, "text {text} belongs to image {image}, but there are {n_images} images");
    }
    RetrievalRanks {
        image_to_text: ranks_of_queries(images_nd, texts_md, max_scores, |image, text| image_of_text[text] == image),
        text_to_image: ranks_of_queries(texts_md, images_nd, max_scores, |text, image| image_of_text[text] == image),
    }
}

/// Ranks by given scores of all pairs, one matrix a direction.
///
/// # Shapes
///
/// Both matrices `[N, M]`, images in rows; `image_of_text [M]` with values below N.
///
/// # Panics
///
/// If the shapes disagree, an image index is out of range, or a score is NaN.
pub fn ranks_by_scores(
    image_to_text_nm: ArrayView2<'_, f32>,
    text_to_image_nm: ArrayView2<'_, f32>,
    image_of_text: &[usize],
) -> RetrievalRanks {
    let (n_images, n_texts) = image_to_text_nm.dim();
    assert_eq!(text_to_image_nm.dim(), (n_images, n_texts), "scores of the two directions");
    assert_eq!(n_texts, image_of_text.len(), "one image index per text");
    assert!(image_of_text.iter().all(|&image| image < n_images), "an image index is not below {n_images}");
    let rows = image_to_text_nm.rows().into_iter().enumerate();
    let columns = text_to_image_nm.columns().into_iter().enumerate();
    RetrievalRanks {
        image_to_text: rows
            .filter_map(|(image, row)| TiedRank::from_scores(row.iter().copied(), |text| image_of_text[text] == image))
            .collect(),
        text_to_image: columns
            .filter_map(|(text, column)| {
                TiedRank::from_scores(column.iter().copied(), |image| image_of_text[text] == image)
            })
            .collect(),
    }
}

/// The rank of each query's best positive, for those that have one.
///
/// # Shapes
///
/// `queries [N, D]`, `candidates [M, D]`; `is_positive(query, candidate)`.
///
/// # Panics
///
/// If a score is NaN.
pub(super) fn ranks_of_queries(
    queries: ArrayView2<'_, f32>,
    candidates: ArrayView2<'_, f32>,
    max_scores: usize,
    is_positive: impl Fn(usize, usize) -> bool,
) -> Vec<TiedRank> {
    let n_queries = queries.nrows();
    let rows_per_block = (max_scores / candidates.nrows().max(1)).max(1);
    let mut ranks = Vec::with_capacity(n_queries);
    for start in (0..n_queries).step_by(rows_per_block) {
        let end = (start + rows_per_block).min(n_queries);
        let scores = queries.slice(s![start..end, ..]).dot(&candidates.t());
        for (row, query) in scores.rows().into_iter().zip(start..end) {
            ranks.extend(TiedRank::from_scores(row.iter().copied(), |candidate| is_positive(query, candidate)));
        }
    }
    ranks
}

/// Mean over queries of the probability that a positive is among the first `k`; `None` without
/// queries.
pub fn recall_at(ranks: &[TiedRank], k: usize) -> Option<f64> {
    mean(ranks.iter().map(|rank| rank.hit_probability(k)))
}

/// Mean expected rank, counted from 1; `None` without queries.
pub fn mean_rank(ranks: &[TiedRank]) -> Option<f64> {
    mean(ranks.iter().map(|rank| rank.expected()))
}

/// Median of the expected ranks, counted from 1 (the mean of the middle two for an even number of
/// queries); `None` without queries.
pub fn median_rank(ranks: &[TiedRank]) -> Option<f64> {
    let mut sorted: Vec<f64> = ranks.iter().map(|rank| rank.expected()).collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let n_values = values.len();
    (n_values > 0).then(|| values.sum::<f64>() / n_values as f64)
}

#[cfg(test)]
mod reference {
    //! Dense matrix in f64, sort, look: no ties allowed.

    /// `(image_to_text, text_to_image)` ranks from 1.
    pub fn ranks(images: &[Vec<f64>], texts: &[Vec<f64>], image_of_text: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let score =
            |image: usize, text: usize| -> f64 { images[image].iter().zip(&texts[text]).map(|(a, b)| a * b).sum() };
        let mut image_to_text = Vec::new();
        for image in 0..images.len() {
            let mut order: Vec<usize> = (0..texts.len()).collect();
            order.sort_by(|&a, &b| score(image, b).total_cmp(&score(image, a)));
            image_to_text.extend(order.iter().position(|&text| image_of_text[text] == image).map(|place| place + 1));
        }
        let text_to_image = (0..texts.len())
            .map(|text| {
                let mut order: Vec<usize> = (0..images.len()).collect();
                order.sort_by(|&a, &b| score(b, text).total_cmp(&score(a, text)));
                1 + order.iter().position(|&image| image == image_of_text[text]).expect("own image")
            })
            .collect();
        (image_to_text, text_to_image)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;

    const MANY: usize = 1 << 20;

    fn expected(ranks: &[TiedRank]) -> Vec<f64> {
        ranks.iter().map(|rank| rank.expected()).collect()
    }

    #[test]
    fn given_scores_rank_as_products_do() {
        let images = array![[0.9f32, 0.1], [0.2, 0.8], [0.5, 0.4]];
        let texts = array![[1.0f32, 0.0], [0.3, 0.6], [0.2, 0.9], [0.7, 0.1]];
        let (owners, scores) = ([0, 2, 1, 0], images.dot(&texts.t()));
        assert_eq!(
            ranks_by_scores(scores.view(), scores.view(), &owners),
            retrieval_ranks(images.view(), texts.view(), &owners, MANY)
        );
        // Each direction reads its own matrix.
        let mixed = ranks_by_scores(scores.view(), (-&scores).view(), &owners);
        assert_eq!(mixed.image_to_text, ranks_by_scores(scores.view(), scores.view(), &owners).image_to_text);
        assert_ne!(mixed.text_to_image, ranks_by_scores(scores.view(), scores.view(), &owners).text_to_image);
    }

    #[test]
    fn hand_computed_with_two_captions_per_image() {
        // Scores (image rows, text columns):  9 1 | 5 8      image 0: own 9 first  -> rank 1
        //                                     7 6 | 4 3      image 1: own 4 third  -> rank 3
        let images = array![[1.0f32, 0.0], [0.0, 1.0]];
        let texts = array![[9.0f32, 7.0], [1.0, 6.0], [5.0, 4.0], [8.0, 3.0]];
        let ranks = retrieval_ranks(images.view(), texts.view(), &[0, 0, 1, 1], MANY);
        assert_eq!(expected(&ranks.image_to_text), [1.0, 3.0]);
        assert_eq!(expected(&ranks.text_to_image), [1.0, 2.0, 2.0, 2.0]);
        assert_eq!(recall_at(&ranks.image_to_text, 1), Some(0.5));
        assert_eq!(recall_at(&ranks.image_to_text, 3), Some(1.0));
        assert_eq!(recall_at(&ranks.text_to_image, 1), Some(0.25));
        assert_eq!(mean_rank(&ranks.image_to_text), Some(2.0));
        assert_eq!(median_rank(&ranks.image_to_text), Some(2.0));
        assert_eq!(median_rank(&ranks.text_to_image), Some(2.0));
        assert_eq!(mean_rank(&ranks.text_to_image), Some(1.75));
    }

    #[test]
    fn constant_embeddings_score_chance_and_not_everything() {
        let images = Array2::<f32>::from_elem((20, 7), 0.377_964_5);
        let texts = Array2::<f32>::from_elem((20, 7), 0.377_964_5);
        let own: Vec<usize> = (0..20).collect();
        let ranks = retrieval_ranks(images.view(), texts.view(), &own, 64);
        for ranks in [&ranks.image_to_text, &ranks.text_to_image] {
            assert!((recall_at(ranks, 1).unwrap() - 0.05).abs() < 1e-12);
            assert!((recall_at(ranks, 5).unwrap() - 0.25).abs() < 1e-12);
            assert_eq!(median_rank(ranks), Some(10.5));
        }
    }

    #[test]
    fn an_image_without_text_is_a_candidate_but_no_query() {
        let images = array![[1.0f32, 0.0], [0.0, 1.0]];
        let texts = array![[0.6f32, 0.8]];
        let ranks = retrieval_ranks(images.view(), texts.view(), &[0], MANY);
        assert_eq!(ranks.image_to_text.len(), 1);
        assert_eq!(expected(&ranks.text_to_image), [2.0]);
    }

    #[test]
    fn no_queries_have_no_recall() {
        assert_eq!(recall_at(&[], 1), None);
        assert_eq!(mean_rank(&[]), None);
        assert_eq!(median_rank(&[]), None);
    }

    #[test]
    #[should_panic(expected = "text 0 belongs to image 1")]
    fn an_index_out_of_range_is_refused() {
        let one = array![[1.0f32]];
        let _ = retrieval_ranks(one.view(), one.view(), &[1], MANY);
    }

    type Case = (Vec<Vec<f64>>, Vec<Vec<f64>>, Vec<usize>);

    /// Small integers as components: products are exact in f32 and f64, and ties do occur.
    fn case() -> impl Strategy<Value = Case> {
        (1usize..7, 1usize..9, 1usize..4).prop_flat_map(|(n, m, d)| {
            let vector = || proptest::collection::vec((-20i32..20).prop_map(f64::from), d);
            (
                proptest::collection::vec(vector(), n),
                proptest::collection::vec(vector(), m),
                proptest::collection::vec(0..n, m),
            )
        })
    }

    fn array(rows: &[Vec<f64>]) -> Array2<f32> {
        Array2::from_shape_fn((rows.len(), rows[0].len()), |(row, column)| rows[row][column] as f32)
    }

    proptest! {
        #[test]
        fn agrees_with_reference_where_nothing_ties((images, texts, own) in case()) {
            let ranks = retrieval_ranks(array(&images).view(), array(&texts).view(), &own, MANY);
            let (image_to_text, text_to_image) = reference::ranks(&images, &texts, &own);
            let pairs = ranks.image_to_text.iter().zip(&image_to_text).chain(
                ranks.text_to_image.iter().zip(&text_to_image));
            for (rank, slow) in pairs {
                // Within a tie the sorted order is one of the possible ones.
                let (low, high) = (rank.n_better + 1, rank.n_better + 1 + rank.n_tied_negatives);
                prop_assert!((low..=high).contains(slow), "{rank:?} against {slow}");
            }
            prop_assert_eq!(ranks.image_to_text.len(), image_to_text.len());
        }

        #[test]
        fn block_size_changes_nothing((images, texts, own) in case(), max_scores in 1usize..40) {
            let whole = retrieval_ranks(array(&images).view(), array(&texts).view(), &own, MANY);
            prop_assert_eq!(whole, retrieval_ranks(array(&images).view(), array(&texts).view(), &own, max_scores));
        }

        #[test]
        fn order_of_texts_changes_nothing((images, texts, own) in case(), turn in 0usize..8) {
            let summary = |texts: &[Vec<f64>], own: &[usize]| {
                let ranks = retrieval_ranks(array(&images).view(), array(texts).view(), own, MANY);
                let mut text_to_image: Vec<f64> = expected(&ranks.text_to_image);
                text_to_image.sort_by(f64::total_cmp);
                (expected(&ranks.image_to_text), text_to_image)
            };
            let before = summary(&texts, &own);
            let turn = turn % texts.len();
            let (mut texts, mut own) = (texts, own);
            texts.rotate_left(turn);
            own.rotate_left(turn);
            prop_assert_eq!(before, summary(&texts, &own));
        }

        #[test]
        fn recall_is_bounded_and_grows_with_k((images, texts, own) in case()) {
            let ranks = retrieval_ranks(array(&images).view(), array(&texts).view(), &own, MANY);
            let recalls: Vec<f64> = (1..=images.len()).map(|k| recall_at(&ranks.text_to_image, k).unwrap()).collect();
            prop_assert!(recalls.iter().all(|recall| (0.0..=1.0).contains(recall)));
            prop_assert!(recalls.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
            prop_assert_eq!(*recalls.last().unwrap(), 1.0);
        }

        #[test]
        fn a_perfect_predictor_gives_one(own in proptest::collection::vec(0usize..5, 1..12)) {
            let images = Array2::<f32>::eye(5);
            let texts = Array2::from_shape_fn((own.len(), 5), |(text, d)| f32::from(own[text] == d));
            let ranks = retrieval_ranks(images.view(), texts.view(), &own, 7);
            prop_assert_eq!(recall_at(&ranks.image_to_text, 1), Some(1.0));
            prop_assert_eq!(recall_at(&ranks.text_to_image, 1), Some(1.0));
            prop_assert_eq!(mean_rank(&ranks.text_to_image), Some(1.0));
        }
    }
}
