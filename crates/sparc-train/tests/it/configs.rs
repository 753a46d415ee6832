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
        assert_eq!(path.parent().unwrap().file_name().unwrap(), config.objective.name());
        config.optimizer.validate(config.train.steps).unwrap();
        config.model.image.validate().unwrap();
    }
}

#[test]
fn methods_differ_by_their_objective_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    for name in ["demo.yaml", "shapes_nano.yaml", "photos_nano.yaml"] {
        let read = |method: &str| {
            let text = std::fs::read_to_string(folder.join(method).join(name)).unwrap();
            RunConfig::parse(&text, &[], &|_| Some("data".into())).unwrap()
        };
        let (clip, sparc) = (read("clip"), read("sparc"));
        let same = RunConfig { output: clip.output.clone(), objective: clip.objective.clone(), ..sparc };
        assert_eq!(same, clip, "{name}");
    }
}
