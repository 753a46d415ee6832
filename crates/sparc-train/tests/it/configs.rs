//! Every configuration in the repository parses and fits together.

use std::path::{Path, PathBuf};

use sparc_train::config::RunConfig;

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
    }
}

#[test]
fn methods_differ_by_their_objective_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let read = |method: &str, name: &str| {
        let text = std::fs::read_to_string(folder.join(method).join(name)).unwrap();
        RunConfig::parse(&text, &[], &|_| Some("data".into())).unwrap()
    };
    let mut compared = 0;
    for name in ["demo.yaml", "shapes_nano.yaml", "photos_nano.yaml"] {
        let clip = read("clip", name);
        for method in ["siglip", "filip", "clip_filip", "pacl", "gloria", "mgca", "sparc"] {
            if name == "demo.yaml" && method != "sparc" {
                continue;
            }
            let other = read(method, name);
            let same = RunConfig { output: clip.output.clone(), objective: clip.objective.clone(), ..other };
            assert_eq!(same, clip, "{method}/{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 15);
}
