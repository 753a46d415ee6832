//! Every configuration in the repository parses and fits together.

use std::path::{Path, PathBuf};

use sparc_data::{CaptionChoice, DataSpec};
use sparc_train::config::RunConfig;
use sparc_train::objective::Objective;
use sparc_train::{captioners, fine_tuning, matching};

fn configs(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            configs(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn every_config_parses() {
    let mut found = Vec::new();
    configs(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs"), &mut found);
    assert!(found.len() >= 6, "{found:?}");
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        let config = RunConfig::parse(&text, &[], &|_| Some("data".into()));
        let config = config.unwrap_or_else(|reason| panic!("{}: {reason}", path.display()));
        // One objective, one stem: a config lies in the folder of what it trains.
        assert_eq!(path.parent().unwrap().file_name().unwrap().to_str(), Some(config.objective.name().as_str()));
        config.objective.validate().unwrap();
        config.optimizer.validate(config.train.steps).unwrap();
        config.model.image.validate().unwrap();
        captioners::check(&config).unwrap_or_else(|reason| panic!("{}: {reason}", path.display()));
        fine_tuning::check(&config).unwrap_or_else(|reason| panic!("{}: {reason}", path.display()));
        matching::check(&config).unwrap_or_else(|reason| panic!("{}: {reason}", path.display()));
    }
}

#[test]
fn methods_differ_by_their_objective_and_what_it_needs() {
    // But for the regions that a method learns from, and the shards that have them where the others have none; and for
    // h_v, which is SPARC's.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let read = |method: &str, name: &str| {
        let text = std::fs::read_to_string(folder.join(method).join(name)).unwrap();
        RunConfig::parse(&text, &[], &|_| Some("data".into())).unwrap()
    };
    let mut compared = 0;
    for name in ["demo.yaml", "shapes_nano.yaml", "photos_nano.yaml"] {
        let clip = read("clip", name);
        for method in ["siglip", "filip", "clip_filip", "pacl", "gloria", "mgca", "sparc", "cloc"] {
            if name == "demo.yaml" && method != "sparc" {
                continue;
            }
            let other = read(method, name);
            assert_eq!(other.data.regions.is_some(), other.objective.learns_from_regions(), "{method}/{name}");
            assert_eq!(other.model.dense_layer, method == "sparc", "{method}/{name}");
            let mut other = without_regions(other, &clip.data.train);
            other.model.dense_layer = false;
            let same = RunConfig { output: clip.output.clone(), objective: clip.objective.clone(), ..other };
            assert_eq!(same, clip, "{method}/{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 17);
}

/// The configuration with the captions alone of what it learns from.
fn without_regions(mut config: RunConfig, captions: &DataSpec) -> RunConfig {
    if let (Some(_), DataSpec::Mixture(sets), DataSpec::Pattern(pattern)) =
        (config.data.regions.take(), &config.data.train, captions)
        && let [first, second] = sets.as_slice()
        && first.data == *pattern
        && (first.weight, second.weight) == (Some(7.0), Some(1.0))
    {
        config.data.train = captions.clone();
    }
    config
}

#[test]
fn ablations_of_cloc_differ_by_what_they_leave_out() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/cloc");
    let read = |name: &str| {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        serde_json::to_value(RunConfig::parse(&text, &[], &|_| Some("data".into())).unwrap()).unwrap()
    };
    let whole = read("shapes_nano.yaml");
    for (name, keys) in [
        ("shapes_nano_roi_align.yaml", &["/objective/cloc/region_head", "/objective/cloc/lambda_grounding"][..]),
        ("shapes_nano_no_filter.yaml", &["/objective/cloc/text_filter"]),
        ("shapes_nano_no_grounding.yaml", &["/objective/cloc/lambda_grounding"]),
        ("shapes_nano_two_regions.yaml", &["/data/regions/max"]),
    ] {
        let mut ablation = read(name);
        for key in keys.iter().chain(&["/output"]) {
            let (ours, theirs) = (whole.pointer(key).unwrap(), ablation.pointer_mut(key).unwrap());
            assert_ne!(ours, theirs, "{name}: {key}");
            *theirs = ours.clone();
        }
        assert_eq!(ablation, whole, "{name}");
    }
}

/// NAS is ALBEF with negatives; and ALBEF has the towers, the data and the steps of the captioners. On Shapes it takes the
/// caption that is true of one scene alone: others would be wrong negatives.
#[test]
fn the_matchers_differ_by_their_objective_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let read = |path: &str| {
        let text = std::fs::read_to_string(folder.join(path)).unwrap();
        RunConfig::parse(&text, &[], &|_| Some("data".into())).unwrap()
    };
    for name in ["shapes_nano", "photos_nano", "pretrain_4m"] {
        let (albef, nas) = (read(&format!("albef/{name}.yaml")), read(&format!("nas/{name}.yaml")));
        let Objective::Nas(with_negatives) = &nas.objective else { panic!("{:?}", nas.objective) };
        assert_eq!(Objective::Albef(with_negatives.albef), albef.objective, "{name}");
        let same = RunConfig { output: albef.output.clone(), objective: albef.objective.clone(), ..nas };
        assert_eq!(same, albef, "{name}");
        if name == "pretrain_4m" {
            continue;
        }
        let coca = read(&format!("coca/{name}.yaml"));
        let mut model = albef.model;
        (model.captioner, model.fusion, model.adapter_bias) = (coca.model.captioner, None, coca.model.adapter_bias);
        let mut data = albef.data.clone();
        data.tokenizer = coca.data.tokenizer.clone();
        let captions = if name == "shapes_nano" { CaptionChoice::First } else { coca.data.captions };
        assert_eq!(std::mem::replace(&mut data.captions, coca.data.captions), captions, "{name}");
        let same = RunConfig { output: coca.output.clone(), objective: coca.objective.clone(), model, data, ..albef };
        assert_eq!(same, coca, "{name}");
    }
}

#[test]
fn the_captioners_differ_by_their_objective_and_their_decoder_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let read = |path: &str| {
        let text = std::fs::read_to_string(folder.join(path)).unwrap();
        RunConfig::parse(&text, &[], &|_| Some("data".into())).unwrap()
    };
    let arms = ["itc", "coca", "masked_caption", "mim_random", "mim_attentive", "tgmim_random"];
    let arms = arms.map(|arm| ("shapes_nano", format!("table5_{arm}")));
    let whole = ["shapes_nano", "photos_nano", "cc3m", "cc12m"].map(|name| (name, name.to_owned()));
    for (coca, sycoca) in arms.into_iter().chain(whole) {
        let (coca, mut sycoca) = (read(&format!("coca/{coca}.yaml")), read(&format!("sycoca/{sycoca}.yaml")));
        sycoca.model.captioner.as_mut().unwrap().image_decoder = None;
        assert_eq!(RunConfig { output: coca.output.clone(), objective: coca.objective.clone(), ..sycoca }, coca);
    }
}

/// A run begins as another whose network it has, and frozen and full differ by what is trained and by the paper's smoothing.
#[test]
fn what_is_fine_tuned_fits_what_it_begins_as() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/coca");
    let read = |name: &str| {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        RunConfig::parse(&text, &[], &|_| Some("data".into())).unwrap()
    };
    let begun = read("photos_nano.yaml");
    for name in ["daquar_nano.yaml", "flowers_nano_frozen.yaml", "flowers_nano_full.yaml"] {
        let config = read(name);
        assert_eq!(config.fine_tuning.unwrap().from, begun.output, "{name}");
        assert_eq!((config.model, config.data.tokenizer), (begun.model, begun.data.tokenizer.clone()), "{name}");
    }
    let (frozen, full) = (read("flowers_nano_frozen.yaml"), read("flowers_nano_full.yaml"));
    let head = |config: &RunConfig| fine_tuning::head(&config.objective).unwrap();
    assert_eq!((head(&frozen).label_smoothing, head(&full).label_smoothing), (0.2, 0.5));
    let same = RunConfig {
        output: full.output.clone(),
        objective: full.objective.clone(),
        fine_tuning: full.fine_tuning.clone(),
        ..frozen
    };
    assert_eq!(same, full);
}
