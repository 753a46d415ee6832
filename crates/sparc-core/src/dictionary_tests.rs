//! Tests of the dictionary: references in scalar loops, and what must not happen to a code.

use proptest::prelude::*;
use sparc_testing::{assert_close, check_gradient, random, rows, scalar, values};

use super::*;

mod reference {
    //! The equations in scalar f64 loops.

    pub fn nearest(vectors: &[Vec<f64>], codes: &[Vec<f64>]) -> Vec<usize> {
        let distance = |v: &[f64], d: &[f64]| v.iter().zip(d).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        let of = |v: &Vec<f64>| {
            let mut best = 0;
            for j in 1..codes.len() {
                if distance(v, &codes[j]) < distance(v, &codes[best]) {
                    best = j;
                }
            }
            best
        };
        vectors.iter().map(of).collect()
    }

    pub struct State {
        pub codes: Vec<Vec<f64>>,
        pub counts: Vec<f64>,
        pub sums: Vec<Vec<f64>>,
    }

    pub fn update(state: &mut State, vectors: &[Vec<f64>], index: &[usize], decay: f64, epsilon: f64) {
        let k = state.codes.len();
        for j in 0..k {
            let own: Vec<&Vec<f64>> = vectors.iter().zip(index).filter(|(_, i)| **i == j).map(|(v, _)| v).collect();
            state.counts[j] = decay * state.counts[j] + (1.0 - decay) * own.len() as f64;
            for c in 0..state.codes[j].len() {
                let sum: f64 = own.iter().map(|v| v[c]).sum();
                state.sums[j][c] = decay * state.sums[j][c] + (1.0 - decay) * sum;
            }
        }
        let total: f64 = state.counts.iter().sum();
        for j in (0..k).filter(|j| index.contains(j)) {
            let smoothed = (state.counts[j] + epsilon) / (total + k as f64 * epsilon) * total;
            state.codes[j] = state.sums[j].iter().map(|sum| sum / smoothed).collect();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_reference_over_several_updates(
        n in 1i64..20, k in 1i64..9, c in 1i64..5, seed in 0i64..1000, decay in 0.0f64..1.0, at_once in 1i64..7,
    ) {
        let start = random(&[k, c], seed);
        let mut state = Codes::start(&start);
        let mut expected =
            reference::State { codes: rows(&start), counts: vec![1.0; k as usize], sums: rows(&start) };
        for step in 0..3 {
            let vectors = random(&[n, c], seed + 31 * (step + 1));
            let index = nearest_by_rows(&vectors, &state.codes_kc, at_once);
            let by_hand = reference::nearest(&rows(&vectors), &expected.codes);
            prop_assert_eq!(values(&index), by_hand.iter().map(|&j| j as f64).collect::<Vec<_>>());
            state = state.updated(&assignments(&vectors, &index, k), decay, 1e-5);
            reference::update(&mut expected, &rows(&vectors), &by_hand, decay, 1e-5);
            for (code, expected) in values(&state.codes_kc).iter().zip(expected.codes.iter().flatten()) {
                assert_close(*code, *expected, 1e-9);
            }
            for (count, expected) in values(&state.counts_k).iter().zip(&expected.counts) {
                assert_close(*count, *expected, 1e-12);
            }
        }
    }
}

#[test]
fn the_first_of_equally_near_codes_is_chosen() {
    let codes = Tensor::from_slice(&[1.0f32, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]).view([4, 2]);
    let vectors = Tensor::from_slice(&[0.9f32, 0.1, 0.1, 0.9, 0.0, 0.0]).view([3, 2]);
    assert_eq!(values(&nearest(&vectors, &codes)), [0.0, 1.0, 0.0]);
    assert_eq!(nearest(&vectors.narrow(0, 0, 0), &codes).size(), [0]);
}

#[test]
fn distances_are_in_f32_whatever_comes_in() {
    // 1 + 2⁻⁹ and 1 are one number in bf16; the vectors differ enough, the codes lie close together.
    let codes = Tensor::from_slice(&[1.0f32, 1.0 + 1.0 / 512.0]).view([2, 1]);
    let vectors = Tensor::from_slice(&[1.0f32, 1.0078125]).view([2, 1]).to_kind(Kind::BFloat16);
    assert_eq!(values(&nearest(&vectors, &codes)), [0.0, 1.0]);
}

#[test]
fn unused_codes_are_unchanged_and_none_collapses() {
    // 32 vectors near two of 64 codes, for long enough that the running counts of the others are all but zero.
    let start = random(&[64, 8], 1).to_kind(Kind::Float);
    let mut state = Codes::start(&start);
    let vectors = start.narrow(0, 3, 2).repeat([16, 1]) + random(&[32, 8], 2).to_kind(Kind::Float) * 0.01;
    for _ in 0..3000 {
        let index = nearest(&vectors, &state.codes_kc);
        state = state.updated(&assignments(&vectors, &index, 64), 0.99, 1e-5);
    }
    let moved = (&state.codes_kc - &start).abs().amax([1i64].as_slice(), false).gt(0.0);
    let expected: Vec<f64> = (0..64).map(|j| f64::from(u8::from(j == 3 || j == 4))).collect();
    assert_eq!(values(&moved), expected);
    assert!(scalar(&state.codes_kc.abs().amax([1i64].as_slice(), false).min()) > 0.1);
    // And the used ones are the means of their vectors.
    let mean = vectors.view([16, 2, 8]).mean_dim([0i64].as_slice(), false, None::<Kind>);
    assert!(scalar(&(state.codes_kc.narrow(0, 3, 2) - mean).abs().max()) < 1e-3);
}

#[test]
fn a_code_that_comes_back_after_long_is_the_mean_of_its_vectors() {
    let mut state = Codes::start(&Tensor::from_slice(&[0.0f32, 10.0]).view([2, 1]));
    let near = |x: f32| Tensor::full([4, 1], f64::from(x), tch::kind::FLOAT_CPU);
    for _ in 0..3000 {
        state = state.updated(&assignments(&near(0.1), &nearest(&near(0.1), &state.codes_kc), 2), 0.99, 1e-5);
    }
    state = state.updated(&assignments(&near(9.0), &nearest(&near(9.0), &state.codes_kc), 2), 0.99, 1e-5);
    assert_close(state.codes_kc.double_value(&[1, 0]), 9.0, 1e-3);
}

#[test]
fn processes_that_add_up_have_one_dictionary() {
    let (codes, vectors) = (random(&[7, 4], 1), random(&[24, 4], 2));
    let state = Codes::start(&codes);
    let of = |part: &Tensor| assignments(part, &nearest(part, &codes), 7);
    let whole = state.updated(&of(&vectors), 0.9, 1e-5);
    for ranks in [2, 3] {
        let parts: Vec<Assignments> = vectors.chunk(ranks, 0).iter().map(of).collect();
        let counts_k = Tensor::stack(&parts.iter().map(|part| &part.counts_k).collect::<Vec<_>>(), 0).sum_dim_intlist(
            [0i64].as_slice(),
            false,
            None::<Kind>,
        );
        let sums_kc = Tensor::stack(&parts.iter().map(|part| &part.sums_kc).collect::<Vec<_>>(), 0).sum_dim_intlist(
            [0i64].as_slice(),
            false,
            None::<Kind>,
        );
        let split = state.updated(&Assignments { counts_k, sums_kc }, 0.9, 1e-5);
        assert_eq!(values(&split.counts_k), values(&whole.counts_k));
        assert!(scalar(&(split.codes_kc - &whole.codes_kc).abs().max()) < 1e-12);
    }
}

#[test]
fn straight_through_is_exactly_the_code_with_the_gradient_of_the_vector() {
    let (vectors, codes) = (random(&[5, 3], 1).to_kind(Kind::Float) * 1e4, random(&[4, 3], 2).to_kind(Kind::Float));
    let leaf = vectors.set_requires_grad(true);
    let quantised = codes.index_select(0, &nearest(&leaf, &codes));
    let through = straight_through(&leaf, &quantised);
    assert_eq!(values(&through), values(&quantised));
    let weights = random(&[5, 3], 3).to_kind(Kind::Float);
    (&through * &weights).sum(None::<Kind>).backward();
    assert_eq!(values(&leaf.grad()), values(&weights));
    // The codes get none.
    let codes = random(&[2, 3], 4).set_requires_grad(true);
    let at = random(&[2, 3], 5);
    check_gradient(&at, 1e-6, |at| (straight_through(at, at) * &codes.detach()).sum(Kind::Double));
    assert!(!straight_through(&at, &codes).requires_grad());
}

#[test]
fn usage_has_its_known_values() {
    let even = usage(&Tensor::from_slice(&[5.0f32, 5.0, 5.0, 5.0]), 1.0);
    assert_close(scalar(&even.perplexity), 4.0, 1e-6);
    assert_eq!((scalar(&even.dead_share), scalar(&even.largest_share)), (0.0, 0.25));
    let one = usage(&Tensor::from_slice(&[0.0f32, 8.0, 0.0, 0.0]), 1.0);
    assert_close(scalar(&one.perplexity), 1.0, 1e-6);
    assert_eq!((scalar(&one.dead_share), scalar(&one.largest_share)), (0.75, 1.0));
    let none = usage(&Tensor::zeros([3], tch::kind::FLOAT_CPU), 1.0);
    assert_eq!((scalar(&none.perplexity), scalar(&none.dead_share), scalar(&none.largest_share)), (1.0, 1.0, 0.0));
}

#[test]
fn a_dictionary_starts_from_vectors_that_differ() {
    // 97 equal vectors and three others: every distinct one is chosen before any is chosen twice.
    let plain = Tensor::ones([97, 2], tch::kind::FLOAT_CPU);
    let others = Tensor::from_slice(&[3.0f32, 0.0, 0.0, 3.0, -3.0, 0.0]).view([3, 2]);
    let vectors = Tensor::cat(&[plain, others], 0);
    for seed in 0..20 {
        let uniforms = crate::seed::uniforms(seed, &[b"codes"], 0, 6);
        let chosen = values(&spread_rows(&vectors, &uniforms));
        assert_eq!(chosen.len(), 6);
        let mut distinct: Vec<i64> = chosen[..4].iter().map(|&row| (row as i64).max(96)).collect();
        distinct.sort_unstable();
        assert_eq!(distinct, [96, 97, 98, 99]);
    }
}

#[test]
#[should_panic(expected = "vectors must be [N, C] and codes [K, C], got [2, 3] and [4, 2]")]
fn a_shape_bug_panics_with_the_numbers() {
    let _ = nearest(&random(&[2, 3], 0), &random(&[4, 2], 0));
}
