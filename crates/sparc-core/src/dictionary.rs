//! A dictionary of vectors learned without a gradient: nearest code, running means, straight-through.
//!
//! The visual dictionary of SOHO (Huang et al. 2021, arXiv:2104.03135, section 3.2), on which NAS builds; the running
//! means are those of VQ-VAE (van den Oord et al. 2017, appendix A.1). With codes d_j, decay g, and of a batch the
//! number n_j and the sum s_j of the vectors nearest to code j:
//!
//! `N_j ← g N_j + (1 − g) n_j`, `M_j ← g M_j + (1 − g) s_j`,
//! `N̂_j = (N_j + ε) / (ΣN + K ε) · ΣN`, `d_j ← M_j / N̂_j` for the codes that were used.
//!
//! Numbers and sums are all that an update needs of the vectors: added over processes before it, they leave every
//! process with the same dictionary.

use tch::{Kind, Tensor};

use crate::contrast::chunks;
use crate::tensor_math::at_least_f32;

// Dimension letters: n vectors, k codes, c width.

/// Distances held at a time: 64 MiB in f32.
const DISTANCES_AT_ONCE: i64 = 1 << 24;

/// The nearest code of each vector, `[N]`, `i64`; of equally near ones the first. In f32 at least, without gradient.
///
/// # Shapes
///
/// `vectors_nc [N, C]`, `codes_kc [K, C]`.
///
/// # Panics
///
/// If widths disagree, or there is no code.
pub fn nearest(vectors_nc: &Tensor, codes_kc: &Tensor) -> Tensor {
    nearest_by_rows(vectors_nc, codes_kc, DISTANCES_AT_ONCE / codes_kc.size()[0].max(1))
}

fn nearest_by_rows(vectors_nc: &Tensor, codes_kc: &Tensor, rows_at_once: i64) -> Tensor {
    let (vectors, codes) = (vectors_nc.size(), codes_kc.size());
    assert!(
        vectors.len() == 2 && codes.len() == 2 && vectors[1] == codes[1] && codes[0] > 0,
        "vectors must be [N, C] and codes [K, C], got {vectors:?} and {codes:?}"
    );
    tch::no_grad(|| {
        let (vectors_nc, codes_kc) = (at_least_f32(vectors_nc), at_least_f32(codes_kc));
        // ‖v − d‖² less ‖v‖², which is the same for all codes.
        let squares_k = (&codes_kc * &codes_kc).sum_dim_intlist([1i64].as_slice(), false, None::<Kind>);
        let indices: Vec<Tensor> = chunks(vectors[0], rows_at_once)
            .map(|(start, size)| {
                let products_ak = vectors_nc.narrow(0, start, size).matmul(&codes_kc.tr());
                (&squares_k - products_ak * 2.0).argmin(1, false)
            })
            .collect();
        match indices.is_empty() {
            true => Tensor::zeros([0], (Kind::Int64, vectors_nc.device())),
            false => Tensor::cat(&indices, 0),
        }
    })
}

/// The values of `quantised` with the gradient of `continuous`. The values are exact: `v + (q − v)` would differ from
/// a code by a rounding, and by that a vector taken from the dictionary could be told from a quantised one.
pub fn straight_through(continuous: &Tensor, quantised: &Tensor) -> Tensor {
    (continuous - continuous.detach()) + quantised.detach()
}

/// How often each code was nearest, and the sum of the vectors it was nearest to. To be added over processes.
#[derive(Debug)]
pub struct Assignments {
    /// n, `[K]`.
    pub counts_k: Tensor,
    /// s, `[K, C]`.
    pub sums_kc: Tensor,
}

/// Counts and sums, without gradient; in f32 at least.
///
/// # Shapes
///
/// `vectors_nc [N, C]`, `index_n [N]`, `i64`, below `n_codes`.
///
/// # Panics
///
/// If shapes disagree.
pub fn assignments(vectors_nc: &Tensor, index_n: &Tensor, n_codes: i64) -> Assignments {
    let (n, c) = vectors_nc.size2().expect("vectors are [N, C]");
    assert!(index_n.size() == [n], "{n} vectors, their codes are {:?}", index_n.size());
    tch::no_grad(|| {
        let vectors_nc = at_least_f32(vectors_nc);
        let options = (vectors_nc.kind(), vectors_nc.device());
        Assignments {
            counts_k: Tensor::zeros([n_codes], options).index_add(0, index_n, &Tensor::ones([n], options)),
            sums_kc: Tensor::zeros([n_codes, c], options).index_add(0, index_n, &vectors_nc),
        }
    })
}

/// Codes with the running counts and sums that they are made from.
#[derive(Debug)]
pub struct Codes {
    /// d, `[K, C]`.
    pub codes_kc: Tensor,
    /// N, `[K]`.
    pub counts_k: Tensor,
    /// M, `[K, C]`.
    pub sums_kc: Tensor,
}

impl Codes {
    /// Codes as they start: N = 1 and M = d. (Zeros instead, as in SOHO's released code, turn every code that the
    /// first batch does not use into the zero vector.)
    pub fn start(codes_kc: &Tensor) -> Codes {
        let codes_kc = at_least_f32(&codes_kc.detach()).copy();
        let options = (codes_kc.kind(), codes_kc.device());
        Codes { counts_k: Tensor::ones([codes_kc.size()[0]], options), sums_kc: codes_kc.copy(), codes_kc }
    }

    /// One step of the running means with the assignments of the global batch. Codes that were not used keep their
    /// vectors exactly: smoothing would draw a count that only decays, and with it the code, towards zero.
    ///
    /// # Panics
    ///
    /// If shapes disagree.
    pub fn updated(&self, assignments: &Assignments, decay: f64, epsilon: f64) -> Codes {
        let (counts, sums) = (assignments.counts_k.size(), assignments.sums_kc.size());
        assert!(
            counts == self.counts_k.size() && sums == self.codes_kc.size(),
            "codes are {:?}, counts {counts:?}, sums {sums:?}",
            self.codes_kc.size()
        );
        tch::no_grad(|| {
            let counts_k = &self.counts_k * decay + &assignments.counts_k * (1.0 - decay);
            let sums_kc = &self.sums_kc * decay + &assignments.sums_kc * (1.0 - decay);
            let total = counts_k.sum(None::<Kind>);
            let smoothed_k = (&counts_k + epsilon) / (&total + epsilon * counts[0] as f64) * &total;
            let used_k1 = assignments.counts_k.gt(0.0).unsqueeze(1);
            let codes_kc = (&sums_kc / smoothed_k.unsqueeze(1)).where_self(&used_k1, &self.codes_kc);
            Codes { codes_kc, counts_k, sums_kc }
        })
    }
}

/// How a dictionary is used; scalars.
#[derive(Debug)]
pub struct Usage {
    /// exp of the entropy of the codes' shares: the number of codes in equal use; 1 where nothing was counted.
    pub perplexity: Tensor,
    /// Share of codes that are dead.
    pub dead_share: Tensor,
    /// Share of the vectors that the most used code has.
    pub largest_share: Tensor,
}

/// Usage by counts `[K]`, of a batch or running; a code is dead where its count is below `dead_below`.
pub fn usage(counts_k: &Tensor, dead_below: f64) -> Usage {
    let counts_k = at_least_f32(&counts_k.detach());
    let total = counts_k.sum(None::<Kind>);
    let shares_k = &counts_k / total.masked_fill(&total.le(0.0), 1.0);
    Usage {
        perplexity: (-shares_k.xlogy(&shares_k).sum(None::<Kind>)).exp(),
        dead_share: counts_k.lt(dead_below).mean(Kind::Float),
        largest_share: shares_k.max(),
    }
}

/// Rows of `vectors_nc` to start `n_codes` codes from: k-means++ (Arthur and Vassilvitskii 2007) with numbers that are
/// given. Each row is drawn by its squared distance to the nearest one already chosen, so that the thousand equal
/// patches of a plain background give one code and not a hundred.
///
/// Where fewer distinct vectors are there than codes, the rest are drawn evenly, and doubles among them stay unused.
///
/// # Shapes
///
/// `vectors_nc [N, C]`; `uniforms`: one number in [0, 1) a code.
///
/// # Panics
///
/// If there is no vector.
pub fn spread_rows(vectors_nc: &Tensor, uniforms: &[f64]) -> Tensor {
    let n = vectors_nc.size()[0];
    assert!(n > 0, "no vector to start a dictionary from");
    tch::no_grad(|| {
        let vectors_nc = at_least_f32(vectors_nc);
        let mut distance_n = Tensor::full([n], f64::INFINITY, (Kind::Double, vectors_nc.device()));
        let mut chosen: Vec<i64> = Vec::with_capacity(uniforms.len());
        for &uniform in uniforms {
            let row = match chosen.last() {
                None => (uniform * n as f64) as i64,
                Some(&last) => {
                    // Differences and not expanded squares: equal vectors must have distance 0.
                    let difference_nc = &vectors_nc - vectors_nc.get(last);
                    let squared_n =
                        (&difference_nc * &difference_nc).sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
                    distance_n = distance_n.minimum(&squared_n);
                    let upto_n = distance_n.cumsum(0, Kind::Double);
                    let total = upto_n.double_value(&[n - 1]);
                    if total > 0.0 && total.is_finite() {
                        upto_n.le(uniform * total).sum(Kind::Int64).int64_value(&[])
                    } else {
                        (uniform * n as f64) as i64
                    }
                }
            };
            chosen.push(row.clamp(0, n - 1));
        }
        Tensor::from_slice(&chosen).to_device(vectors_nc.device())
    })
}

#[cfg(test)]
#[path = "dictionary_tests.rs"]
mod tests;
