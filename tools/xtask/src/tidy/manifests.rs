//! Checks of the `Cargo.toml` files: who may depend on whom, and that every dependency is explained.

use super::Violation;
use super::files::Files;

const DEPENDENCIES_DOCUMENT: &str = "docs/dependencies.md";

/// A line of a dependency table.
#[derive(Debug, PartialEq, Eq)]
struct Dependency {
    /// The package's name: `package = "…"` where the table renames it.
    package: String,
    /// Whether only tests, examples and benches see it.
    for_tests: bool,
    line: usize,
}

/// What a package of ours may depend on outside tests; `None` for a package that is not on the map.
fn allowed(package: &str) -> Option<&'static [&'static str]> {
    let foundation: &[&str] = &["sparc-core", "sparc-torch"];
    match package {
        "sparc-torch" | "xtask" => Some(&[]),
        "sparc-core" => Some(&["sparc-torch"]),
        "sparc-models" | "sparc-data" | "sparc-eval" | "sparc-testing" => Some(foundation),
        "sparc-train" => Some(&["sparc-core", "sparc-torch", "sparc-models", "sparc-data", "sparc-eval"]),
        _ => None,
    }
}

/// Invariant 2: dependencies between our packages flow down, siblings are blind to each other.
pub fn dependencies_flow_down(files: &Files) -> Vec<Violation> {
    let manifests: Vec<(&str, &str)> =
        files.with_extension("toml").filter(|(path, _)| path.ends_with("Cargo.toml")).collect();
    let ours: Vec<String> = manifests.iter().filter_map(|(_, text)| package_name(text)).collect();
    let mut violations = Vec::new();
    for (path, text) in manifests {
        let Some(package) = package_name(text) else {
            continue;
        };
        let Some(allowed) = allowed(&package) else {
            if path.starts_with("crates/") || path.starts_with("tools/") {
                let message =
                    format!("`{package}` is not on the map; add it to docs/architecture.md and to tidy's manifests.rs");
                violations.push(Violation::new(path, 1, message));
            }
            // Benches, examples and fuzz targets stand above everything.
            continue;
        };
        for dependency in dependencies(text).iter().filter(|dependency| ours.contains(&dependency.package)) {
            let name = dependency.package.as_str();
            let is_test_help = name == "sparc-testing" && dependency.for_tests && package != "xtask";
            if !allowed.contains(&name) && !is_test_help {
                let message = if name == "sparc-testing" && package != "xtask" {
                    format!("`{package}` depends on sparc-testing outside tests; move it to [dev-dependencies]")
                } else {
                    format!(
                        "`{package}` must not depend on `{name}`; share through sparc-core, or let sparc-train join the two"
                    )
                };
                violations.push(Violation::new(path, dependency.line, message));
            }
        }
    }
    violations
}

/// Every dependency of the workspace is mentioned in the document that says why we have it.
pub fn dependencies_are_documented(files: &Files) -> Vec<Violation> {
    let manifest = files.text("Cargo.toml").unwrap_or_default();
    let named: Vec<Dependency> = table_lines(manifest, |section| section == "workspace.dependencies")
        .filter(|(_, line)| !line.contains("path ="))
        .filter_map(|(number, line)| dependency(line, number, false))
        .collect();
    let Some(document) = files.text(DEPENDENCIES_DOCUMENT) else {
        if named.is_empty() {
            return Vec::new();
        }
        return vec![Violation::new(
            DEPENDENCIES_DOCUMENT,
            1,
            "the document is missing; write why each dependency of Cargo.toml is there",
        )];
    };
    let mentioned = |package: &str| {
        let is_name = |character: char| character.is_alphanumeric() || character == '-' || character == '_';
        document.split(|character| !is_name(character)).any(|word| word == package)
    };
    named
        .iter()
        .filter(|dependency| !mentioned(&dependency.package))
        .map(|dependency| {
            let message = format!(
                "`{}` is not mentioned in {DEPENDENCIES_DOCUMENT}; say there why we have it",
                dependency.package
            );
            Violation::new("Cargo.toml", dependency.line, message)
        })
        .collect()
}

fn package_name(manifest: &str) -> Option<String> {
    let mut lines = table_lines(manifest, |section| section == "package");
    lines.find_map(|(_, line)| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "name").then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// All dependencies of a package: normal, dev and build, of every target, as lines or as sections of their own.
fn dependencies(manifest: &str) -> Vec<Dependency> {
    let is_table = |section: &str| {
        let kind = section.rsplit('.').next().unwrap_or_default();
        ["dependencies", "dev-dependencies", "build-dependencies"].contains(&kind)
    };
    let mut found = Vec::new();
    for (number, line, section) in lines_with_sections(manifest) {
        let for_tests = section.contains("dev-dependencies");
        if line.starts_with('[') {
            // `[dependencies.name]`: the section itself is the dependency.
            let own = section.rsplit_once('.').filter(|(table, _)| is_table(table));
            found.extend(own.map(|(_, name)| Dependency { package: unquoted(name), for_tests, line: number }));
        } else if is_table(section) {
            found.extend(dependency(line, number, for_tests));
        }
    }
    found
}

/// Reads `name = "1"`, `name = { package = "other", … }` or `name.workspace = true`.
fn dependency(line: &str, number: usize, for_tests: bool) -> Option<Dependency> {
    let (key, value) = line.split_once('=')?;
    let renamed = value.split_once("package").and_then(|(_, rest)| rest.trim_start().strip_prefix('='));
    let package = match renamed.and_then(|rest| rest.split('"').nth(1)) {
        Some(package) => package.to_owned(),
        None => unquoted(key.trim().split('.').next()?),
    };
    // The further lines of a value that is spread over several have no bare key before their `=`.
    let is_name = |character: char| character.is_alphanumeric() || character == '-' || character == '_';
    (!package.is_empty() && package.chars().all(is_name)).then_some(Dependency { package, for_tests, line: number })
}

fn unquoted(name: &str) -> String {
    name.trim().trim_matches('"').to_owned()
}

fn table_lines<'a>(manifest: &'a str, wanted: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = (usize, &'a str)> {
    lines_with_sections(manifest)
        .filter(move |(_, line, section)| !line.starts_with('[') && wanted(section))
        .map(|(number, line, _)| (number, line))
}

/// The lines that are neither blank nor comments, with their numbers (from 1) and the section they are in.
fn lines_with_sections(manifest: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let mut section = "";
    manifest.lines().enumerate().filter_map(move |(index, line)| {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').filter(|_| line.ends_with(']')) {
            section = header.trim_matches(['[', ']']);
        }
        (!line.is_empty() && !line.starts_with('#')).then_some((index + 1, line, section))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(package: &str, rest: &str) -> String {
        format!("[package]\nname = \"{package}\"\n{rest}")
    }

    #[test]
    fn tables_are_read() {
        let text = "[package]\nname = \"x\"\n[dependencies]\n# a = \"1\"\nb.workspace = true\n\
                    c = { package = \"d\", version = \"1\" }\n[target.'cfg(unix)'.build-dependencies]\n\"e\" = \"1\"\n\
                    [dev-dependencies.f]\nversion = \"1\"\n[features]\ng = []\n";
        let found = dependencies(text);
        let found: Vec<(&str, bool)> = found.iter().map(|entry| (entry.package.as_str(), entry.for_tests)).collect();
        assert_eq!(found, [("b", false), ("d", false), ("e", false), ("f", true)]);
        assert_eq!(package_name(text).as_deref(), Some("x"));
    }

    #[test]
    fn forbidden_dependencies_are_found() {
        let models = manifest("sparc-models", "[dev-dependencies]\nsparc-data.workspace = true\n");
        let data = manifest("sparc-data", "[dependencies]\nsparc-testing.workspace = true\n");
        let core = manifest("sparc-core", "[dependencies]\nmodels = { package = \"sparc-models\", path = \"x\" }\n");
        let xtask = manifest("xtask", "[dependencies]\nsparc-core.workspace = true\n");
        let stray = manifest("sparc-extra", "");
        let testing = manifest("sparc-testing", "");
        let found = dependencies_flow_down(&Files::in_memory(&[
            ("crates/sparc-models/Cargo.toml", &models),
            ("crates/sparc-data/Cargo.toml", &data),
            ("crates/sparc-core/Cargo.toml", &core),
            ("crates/sparc-extra/Cargo.toml", &stray),
            ("crates/sparc-testing/Cargo.toml", &testing),
            ("tools/xtask/Cargo.toml", &xtask),
        ]));
        assert_eq!(found.len(), 5, "{found:?}");
        assert!(found.iter().any(|violation| violation.message.contains("move it to [dev-dependencies]")));
    }

    #[test]
    fn allowed_dependencies_pass() {
        let core = manifest(
            "sparc-core",
            "[dependencies]\nsparc-torch.workspace = true\n[dev-dependencies]\nsparc-testing.workspace = true\n",
        );
        let train =
            manifest("sparc-train", "[dependencies]\nsparc-core.workspace = true\nsparc-models.workspace = true\n");
        let benches = manifest("sparc-benches", "[dependencies]\nsparc-testing.workspace = true\n");
        let files = Files::in_memory(&[
            ("crates/sparc-core/Cargo.toml", &core),
            ("crates/sparc-train/Cargo.toml", &train),
            ("benches/Cargo.toml", &benches),
            ("crates/sparc-models/Cargo.toml", &manifest("sparc-models", "")),
            ("crates/sparc-testing/Cargo.toml", &manifest("sparc-testing", "")),
            ("crates/sparc-torch/Cargo.toml", &manifest("sparc-torch", "")),
        ]);
        assert_eq!(dependencies_flow_down(&files), []);
    }

    #[test]
    fn dependencies_need_a_reason() {
        let cargo = (
            "Cargo.toml",
            "[workspace.dependencies]\nsparc-core = { path = \"crates/sparc-core\" }\nrand = \"0.9\"\nrand_chacha = \"0.9\"\n",
        );
        assert_eq!(dependencies_are_documented(&Files::in_memory(&[cargo])).len(), 1);
        let one = Files::in_memory(&[cargo, (DEPENDENCIES_DOCUMENT, "`rand_chacha`: seeds\n")]);
        let found = dependencies_are_documented(&one);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].path.as_str(), found[0].line), ("Cargo.toml", 3));
        let both = Files::in_memory(&[cargo, (DEPENDENCIES_DOCUMENT, "`rand`, `rand_chacha`: seeds\n")]);
        assert_eq!(dependencies_are_documented(&both), []);
    }
}
