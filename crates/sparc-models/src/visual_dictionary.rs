//! The visual dictionary of SOHO and NAS: state around the functions of [`sparc_core::dictionary`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sparc_core::dictionary::{Assignments, Codes, Usage, assignments, nearest, spread_rows, usage};
use sparc_core::seed;
use tch::{Device, Kind, Tensor};

use crate::differences;

// Dimension letters: b batch, p patches, n vectors, k codes, c width.

/// Configuration. Every field is required.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DictionaryConfig {
    /// K; 2,048 in SOHO.
    pub codes: i64,
    /// g, what the running counts and sums keep at each step; 0.99 in SOHO's paper, 0.4 in its released code.
    pub decay: f64,
    /// ε of the Laplace smoothing; 1e-5 in SOHO.
    pub epsilon: f64,
    /// A code is dead where its running count, in vectors a step, is below this.
    pub dead_below: f64,
    /// Steps that a code is dead for before it starts anew; 0 for never.
    pub restart_after_steps: i64,
}

impl DictionaryConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if self.codes < 2 {
            return Err(format!("codes must be at least 2, got {}", self.codes));
        }
        if !(0.0..1.0).contains(&self.decay) {
            return Err(format!("decay must lie in [0, 1), got {}", self.decay));
        }
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return Err(format!("epsilon must be a number above 0, got {}", self.epsilon));
        }
        if !(self.dead_below.is_finite() && self.dead_below >= 0.0) {
            return Err(format!("dead_below must be a number of at least 0, got {}", self.dead_below));
        }
        if self.restart_after_steps < 0 {
            return Err(format!("restart_after_steps must be at least 0, got {}", self.restart_after_steps));
        }
        Ok(())
    }
}

/// A dictionary in f32. It learns in [`VisualDictionary::update`] alone: evaluation calls the other functions.
#[derive(Debug)]
pub struct VisualDictionary {
    config: DictionaryConfig,
    codes: Codes,
    /// For how many steps each code has been dead, `[K]`, `i64`.
    dead_steps_k: Tensor,
    n_updates: i64,
    is_started: bool,
    /// The highest perplexity of the running counts so far.
    peak_perplexity: f64,
}

impl VisualDictionary {
    /// An empty dictionary of vectors of this width, to be started by the first vectors.
    ///
    /// # Panics
    ///
    /// If the configuration does not validate.
    pub fn new(config: DictionaryConfig, width: i64, device: Device) -> VisualDictionary {
        config.validate().expect("a valid configuration");
        VisualDictionary {
            codes: Codes::start(&Tensor::zeros([config.codes, width], (Kind::Float, device))),
            dead_steps_k: Tensor::zeros([config.codes], (Kind::Int64, device)),
            n_updates: 0,
            is_started: false,
            peak_perplexity: 0.0,
            config,
        }
    }

    /// Whether it has codes.
    pub fn is_started(&self) -> bool {
        self.is_started
    }

    /// Makes codes of vectors `[N, C]` of the global batch: rows that lie far from each other. The choice depends on
    /// the vectors and on the seed alone.
    ///
    /// # Panics
    ///
    /// If there is no vector, or of another width.
    pub fn start(&mut self, vectors_nc: &Tensor, run_seed: u64) {
        self.check_width(vectors_nc);
        let uniforms = seed::uniforms(run_seed, &[b"dictionary start"], 0, self.config.codes as usize);
        self.codes = Codes::start(&as_f32(vectors_nc).index_select(0, &spread_rows(&as_f32(vectors_nc), &uniforms)));
        self.is_started = true;
    }

    /// The nearest codes of patches `[B, P, C]`, `[B, P]`, `i64`.
    ///
    /// # Panics
    ///
    /// If the dictionary has not been started.
    pub fn nearest(&self, patches_bpc: &Tensor) -> Tensor {
        assert!(self.is_started, "the dictionary has no codes yet: start it with the first patches");
        let (b, p, c) = patches_bpc.size3().expect("patches are [B, P, C]");
        nearest(&as_f32(patches_bpc).reshape([-1, c]), &self.codes.codes_kc).view([b, p])
    }

    /// Counts and sums of patches `[B, P, C]` with codes `[B, P]`; to be added over processes before the update.
    pub fn assignments(&self, patches_bpc: &Tensor, index_bp: &Tensor) -> Assignments {
        let width = self.codes.codes_kc.size()[1];
        assignments(&as_f32(patches_bpc).reshape([-1, width]), &index_bp.reshape([-1]), self.config.codes)
    }

    /// One step of the running means; dead codes start anew, as vectors `[N, C]` of the global batch that lie far from
    /// every code (rows drawn by squared distance, so that the patches of a plain background are not drawn again and
    /// again). With the same arguments every process does the same. The number of codes that started anew.
    ///
    /// # Panics
    ///
    /// If shapes disagree, or the dictionary has not been started.
    pub fn update(&mut self, assignments: &Assignments, vectors_nc: &Tensor, run_seed: u64) -> usize {
        assert!(self.is_started, "the dictionary has no codes yet: start it with the first patches");
        self.check_width(vectors_nc);
        self.codes = self.codes.updated(assignments, self.config.decay, self.config.epsilon);
        self.n_updates += 1;
        self.peak_perplexity = self.peak_perplexity.max(self.usage().perplexity.double_value(&[]));
        let dead_k = self.codes.counts_k.lt(self.config.dead_below);
        self.dead_steps_k = (&self.dead_steps_k + 1) * dead_k;
        if self.config.restart_after_steps == 0 {
            return 0;
        }
        let due = self.dead_steps_k.ge(self.config.restart_after_steps).nonzero().view([-1]);
        let due: Vec<i64> = Vec::try_from(due).expect("indices");
        if due.is_empty() { 0 } else { self.restart(&due, vectors_nc, run_seed) }
    }

    fn restart(&mut self, due: &[i64], vectors_nc: &Tensor, run_seed: u64) -> usize {
        let vectors_nc = as_f32(vectors_nc);
        let own_nc = self.codes.codes_kc.index_select(0, &nearest(&vectors_nc, &self.codes.codes_kc));
        let difference_nc = &vectors_nc - own_nc;
        let upto_n = (&difference_nc * &difference_nc)
            .sum_dim_intlist([1i64].as_slice(), false, Kind::Double)
            .cumsum(0, Kind::Double);
        let n = upto_n.size()[0];
        let total = if n > 0 { upto_n.double_value(&[n - 1]) } else { 0.0 };
        if !(total > 0.0 && total.is_finite()) {
            // Every vector is a code already: there is nothing to start from.
            return 0;
        }
        let purpose = [&b"dictionary restart"[..], &self.n_updates.to_le_bytes()];
        let rows: Vec<i64> = seed::uniforms(run_seed, &purpose, 0, due.len())
            .into_iter()
            .map(|uniform| upto_n.le(uniform * total).sum(Kind::Int64).int64_value(&[]).min(n - 1))
            .collect();
        let device = vectors_nc.device();
        let new_jc = vectors_nc.index_select(0, &Tensor::from_slice(&rows).to_device(device));
        let due_j = Tensor::from_slice(due).to_device(device);
        tch::no_grad(|| {
            let _ = self.codes.codes_kc.index_copy_(0, &due_j, &new_jc);
            let _ = self.codes.sums_kc.index_copy_(0, &due_j, &new_jc);
            let _ = self.codes.counts_k.index_fill_(0, &due_j, 1.0);
            let _ = self.dead_steps_k.index_fill_(0, &due_j, 0);
        });
        due.len()
    }

    /// The codes, `[K, C]`.
    pub fn codes(&self) -> &Tensor {
        &self.codes.codes_kc
    }

    /// True for the codes that are not dead, `[K]`, `bool`.
    pub fn usable(&self) -> Tensor {
        self.codes.counts_k.ge(self.config.dead_below)
    }

    /// Usage by the running counts. What every code was given at the start, to keep it from collapsing, was counted
    /// nowhere: perplexity and largest share leave it out, or an early dictionary would seem to be in full use.
    pub fn usage(&self) -> Usage {
        let left_of_start = self.config.decay.powf(self.n_updates as f64);
        let counted_k = (&self.codes.counts_k - left_of_start).clamp_min(0.0);
        let Usage { dead_share, .. } = usage(&self.codes.counts_k, self.config.dead_below);
        Usage { dead_share, ..usage(&counted_k, self.config.dead_below) }
    }

    /// The highest perplexity that the running counts have had: what has begun with it goes on where it falls again, as
    /// it does while features gather. 0 before the first update.
    pub fn peak_perplexity(&self) -> f64 {
        self.peak_perplexity
    }

    /// Everything that a checkpoint must hold, by name.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let named = |name: &str, tensor: &Tensor| (name.to_owned(), tensor.shallow_clone());
        BTreeMap::from([
            named("codes", &self.codes.codes_kc),
            named("counts", &self.codes.counts_k),
            named("sums", &self.codes.sums_kc),
            named("dead_steps", &self.dead_steps_k),
            named("started_and_updates", &Tensor::from_slice(&[i64::from(self.is_started), self.n_updates])),
            named("peak_perplexity", &Tensor::from_slice(&[self.peak_perplexity])),
        ])
    }

    /// Takes over a state.
    ///
    /// # Errors
    ///
    /// Every difference in names, shapes and kinds; nothing has been copied then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), Vec<String>> {
        let found = differences(&self.state(), state);
        if !found.is_empty() {
            return Err(found);
        }
        let number = |index: i64| state["started_and_updates"].int64_value(&[index]);
        let (started, n_updates, peak) = (number(0), number(1), state["peak_perplexity"].double_value(&[0]));
        if !(0..=1).contains(&started) || n_updates < 0 || !(0.0..=self.config.codes as f64 + 1.0).contains(&peak) {
            return Err(vec![format!(
                "started_and_updates, peak_perplexity: {started}, {n_updates} and {peak} are no state of a dictionary"
            )]);
        }
        tch::no_grad(|| {
            self.codes.codes_kc.copy_(&state["codes"]);
            self.codes.counts_k.copy_(&state["counts"]);
            self.codes.sums_kc.copy_(&state["sums"]);
            self.dead_steps_k.copy_(&state["dead_steps"]);
        });
        (self.is_started, self.n_updates, self.peak_perplexity) = (started == 1, n_updates, peak);
        Ok(())
    }

    fn check_width(&self, vectors_nc: &Tensor) {
        let (size, width) = (vectors_nc.size(), self.codes.codes_kc.size()[1]);
        assert!(size.len() == 2 && size[1] == width, "vectors must be [N, {width}], got {size:?}");
    }
}

fn as_f32(x: &Tensor) -> Tensor {
    x.detach().to_kind(Kind::Float)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use sparc_testing::{random, scalar, values};

    use super::*;
    use crate::weights;

    const CONFIG: DictionaryConfig =
        DictionaryConfig { codes: 8, decay: 0.8, epsilon: 1e-5, dead_below: 0.5, restart_after_steps: 5 };

    /// Patches of 6 images around `clusters` centres.
    fn patches(step: i64, clusters: i64) -> Tensor {
        let centres = random(&[clusters, 4], 7) * 5.0;
        let which = Tensor::arange(6 * 10, (Kind::Int64, Device::Cpu)).remainder(clusters);
        let noise = random(&[60, 4], 100 + step) * 0.1;
        (centres.index_select(0, &which) + noise).view([6, 10, 4]).to_kind(Kind::Float)
    }

    fn flat(patches: &Tensor) -> Tensor {
        patches.reshape([-1, 4])
    }

    /// Runs steps with each batch split over `n` processes, whose counts and sums are added. After five steps two of
    /// five clusters are seen no more.
    fn run(dictionary: &mut VisualDictionary, steps: std::ops::Range<i64>, n: i64) -> usize {
        let mut restarted = 0;
        for step in steps {
            let batch = patches(step, if step < 5 { 5 } else { 3 });
            if !dictionary.is_started() {
                dictionary.start(&flat(&batch), 3);
            }
            let parts: Vec<Assignments> =
                batch.chunk(n, 0).iter().map(|part| dictionary.assignments(part, &dictionary.nearest(part))).collect();
            let sum = parts
                .into_iter()
                .reduce(|a, b| Assignments { counts_k: a.counts_k + b.counts_k, sums_kc: a.sums_kc + b.sums_kc })
                .unwrap();
            restarted += dictionary.update(&sum, &flat(&batch), 3);
        }
        restarted
    }

    fn new() -> VisualDictionary {
        VisualDictionary::new(CONFIG, 4, Device::Cpu)
    }

    fn difference(a: &VisualDictionary, b: &VisualDictionary) -> f64 {
        a.state().iter().map(|(name, tensor)| scalar(&(tensor - &b.state()[name]).abs().max())).fold(0.0, f64::max)
    }

    #[test]
    fn one_and_two_processes_have_the_same_dictionary() {
        let (mut one, mut two) = (new(), new());
        let restarted = run(&mut one, 0..30, 1);
        assert_eq!(run(&mut two, 0..30, 2), restarted);
        assert!(restarted > 0, "the test should see restarts");
        assert!(difference(&one, &two) < 1e-3);
        assert_eq!(values(&one.nearest(&patches(50, 5))), values(&two.nearest(&patches(50, 5))));
    }

    #[test]
    fn it_starts_from_the_data_and_no_code_collapses() {
        let mut dictionary = new();
        run(&mut dictionary, 0..1, 1);
        // Every cluster has a code from the first step on.
        let batch = patches(1, 5);
        let codes = values(&dictionary.nearest(&batch));
        for (place, code) in codes.iter().enumerate() {
            let own = codes.iter().enumerate().filter(|(other, _)| other % 5 == place % 5).map(|(_, code)| *code);
            let foreign = codes.iter().enumerate().filter(|(other, _)| other % 5 != place % 5);
            assert!(own.count() == 12 && foreign.into_iter().all(|(_, other)| other != code));
        }
        run(&mut dictionary, 1..200, 1);
        assert!(scalar(&dictionary.codes().norm_scalaropt_dim(2.0, [1i64].as_slice(), false).min()) > 0.5);
    }

    #[test]
    fn dead_codes_start_anew_after_their_time_and_are_used_then() {
        let mut dictionary = VisualDictionary::new(DictionaryConfig { decay: 0.5, ..CONFIG }, 4, Device::Cpu);
        let batch = patches(0, 8);
        dictionary.start(&flat(&batch), 3);
        // From now on all patches are near one centre: the other codes die, though not in fewer than 5 steps.
        let plain = (random(&[60, 4], 1).to_kind(Kind::Float) * 0.5 + flat(&batch).get(0)).view([6, 10, 4]);
        let mut first = None;
        for step in 0..20 {
            let assignments = dictionary.assignments(&plain, &dictionary.nearest(&plain));
            if dictionary.update(&assignments, &flat(&plain), 3) > 0 && first.is_none() {
                first = Some(step);
            }
        }
        // Counts are 0.5 after the first step and below it after the second: five steps later they start anew.
        assert_eq!(first, Some(5));
        let used = scalar(&dictionary.usable().sum(Kind::Double));
        assert!(used >= 5.0, "{used} of 8 codes in use");
        assert!(scalar(&dictionary.usage().perplexity) > 2.0);
        let mut never = VisualDictionary::new(DictionaryConfig { restart_after_steps: 0, ..CONFIG }, 4, Device::Cpu);
        assert_eq!(run(&mut never, 0..40, 1), 0);
    }

    #[test]
    fn usage_leaves_out_what_was_given_at_the_start() {
        let mut dictionary = VisualDictionary::new(DictionaryConfig { decay: 0.99, ..CONFIG }, 4, Device::Cpu);
        dictionary.start(&flat(&patches(0, 8)), 3);
        assert_eq!(scalar(&dictionary.usage().perplexity), 1.0);
        // One cluster is seen: one code is in use, however slowly the start is forgotten.
        let one = flat(&patches(0, 8)).get(0).expand([6, 10, 4], false);
        for _ in 0..2 {
            let assignments = dictionary.assignments(&one, &dictionary.nearest(&one));
            dictionary.update(&assignments, &flat(&one), 3);
            let usage = dictionary.usage();
            assert!((scalar(&usage.perplexity) - 1.0).abs() < 1e-3 && scalar(&usage.largest_share) > 0.999);
            assert_eq!(scalar(&usage.dead_share), 0.0);
        }
    }

    #[test]
    fn the_peak_of_perplexity_stays() {
        let mut dictionary = VisualDictionary::new(DictionaryConfig { decay: 0.5, ..CONFIG }, 4, Device::Cpu);
        dictionary.start(&flat(&patches(0, 8)), 3);
        assert_eq!(dictionary.peak_perplexity(), 0.0);
        let mut learn = |batch: &Tensor| {
            let assignments = dictionary.assignments(batch, &dictionary.nearest(batch));
            dictionary.update(&assignments, &flat(batch), 3);
            (scalar(&dictionary.usage().perplexity), dictionary.peak_perplexity())
        };
        let (now, peak) = learn(&patches(0, 8));
        assert!(peak > 4.0 && now == peak);
        let one = flat(&patches(0, 8)).get(0).expand([6, 10, 4], false);
        let (now, later) = (0..5).map(|_| learn(&one)).last().unwrap();
        assert!(now < 3.0 && later == peak, "{now} {later}");
    }

    #[test]
    fn vectors_that_are_all_codes_leave_nothing_to_restart_from() {
        let mut dictionary = new();
        let plain = Tensor::ones([2, 3, 4], tch::kind::FLOAT_CPU);
        dictionary.start(&flat(&plain), 1);
        for _ in 0..50 {
            let assignments = dictionary.assignments(&plain, &dictionary.nearest(&plain));
            dictionary.update(&assignments, &flat(&plain), 1);
        }
        assert!(scalar(&dictionary.codes().isfinite().all()) == 1.0);
        assert!(scalar(&(dictionary.codes() - 1.0).abs().max()) < 1e-3);
    }

    #[test]
    fn looking_up_changes_nothing() {
        let mut dictionary = new();
        run(&mut dictionary, 0..3, 1);
        let before = dictionary.state().values().map(values).collect::<Vec<_>>();
        let index = dictionary.nearest(&patches(9, 5));
        let _ = (dictionary.assignments(&patches(9, 5), &index), dictionary.usage(), dictionary.usable());
        assert_eq!(dictionary.state().values().map(values).collect::<Vec<_>>(), before);
    }

    #[test]
    fn a_dictionary_resumes_exactly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dictionary.safetensors");
        for before in [0, 4, 11] {
            let mut dictionary = new();
            run(&mut dictionary, 0..before, 1);
            let state = dictionary.state();
            weights::save(&path, state.iter().map(|(name, tensor)| (name.as_str(), tensor)), HashMap::new()).unwrap();
            let mut resumed = new();
            resumed.load_state(&weights::load(&path).unwrap()).unwrap();
            let restarted = run(&mut dictionary, before..30, 1);
            assert_eq!(run(&mut resumed, before..30, 1), restarted);
            assert_eq!(difference(&dictionary, &resumed), 0.0);
        }
    }

    #[test]
    fn wrong_values_and_states_are_named() {
        assert!(CONFIG.validate().is_ok());
        for (wrong, name) in [
            (DictionaryConfig { codes: 1, ..CONFIG }, "codes"),
            (DictionaryConfig { decay: 1.0, ..CONFIG }, "decay"),
            (DictionaryConfig { epsilon: 0.0, ..CONFIG }, "epsilon"),
            (DictionaryConfig { dead_below: f64::NAN, ..CONFIG }, "dead_below"),
            (DictionaryConfig { restart_after_steps: -1, ..CONFIG }, "restart_after_steps"),
        ] {
            assert!(wrong.validate().unwrap_err().contains(name));
        }
        let mut dictionary = new();
        let other = VisualDictionary::new(DictionaryConfig { codes: 9, ..CONFIG }, 4, Device::Cpu);
        let found = dictionary.load_state(&other.state()).unwrap_err();
        assert!(found.iter().any(|line| line.contains("codes is [9, 4] in the file, [8, 4]")), "{found:?}");
        let mut state = dictionary.state();
        state.insert("started_and_updates".into(), Tensor::from_slice(&[2i64, 0]));
        assert!(dictionary.load_state(&state).unwrap_err()[0].contains("no state of a dictionary"));
    }

    #[test]
    #[should_panic(expected = "start it with the first patches")]
    fn an_empty_dictionary_says_so() {
        let _ = new().nearest(&patches(0, 5));
    }
}
