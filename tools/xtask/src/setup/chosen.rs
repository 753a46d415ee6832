//! A LibTorch that the user chose: LIBTORCH or LIBTORCH_USE_PYTORCH, as torch-sys reads them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::VERSION;
use crate::workspace::Workspace;

/// A LibTorch of the user's, of a version that tch 0.24 binds.
#[derive(Debug, PartialEq, Eq)]
pub enum Chosen {
    /// LIBTORCH names it.
    Folder { path: PathBuf, version: String },
    /// LIBTORCH_USE_PYTORCH is set.
    Python { interpreter: &'static str, version: String },
}

/// What the environment chooses, checked; `None` where it leaves the choice to us.
pub fn chosen(workspace: &Workspace) -> Result<Option<Chosen>, String> {
    let is_set = |name| std::env::var_os(name).is_some();
    // torch-sys asks only whether the variable exists, so `LIBTORCH_USE_PYTORCH=0` switches it on as well.
    if is_set("LIBTORCH_USE_PYTORCH") {
        // torch-sys picks the interpreter by the same rule.
        let interpreter = if is_set("VIRTUAL_ENV") { "python" } else { "python3" };
        return python(interpreter, is_set("LIBTORCH_BYPASS_VERSION_CHECK")).map(Some);
    }
    match users_value(std::env::var_os("LIBTORCH"), workspace) {
        Some(value) => folder(Path::new(&value), is_set("LIBTORCH_BYPASS_VERSION_CHECK")).map(Some),
        None => Ok(None),
    }
}

/// LIBTORCH, unless it is the value that cargo set from `.cargo/config.toml`.
fn users_value(value: Option<OsString>, workspace: &Workspace) -> Option<OsString> {
    value.filter(|value| !workspace.is_own_libtorch(value))
}

fn folder(path: &Path, bypass: bool) -> Result<Chosen, String> {
    let remedy = "or unset it to use the one of `cargo xtask setup`";
    if !path.is_absolute() {
        // Build scripts run in their package's folder, where a relative path leads nowhere.
        let shown = path.display();
        return Err(format!("LIBTORCH is `{shown}`, which is no absolute path; write it in full, {remedy}"));
    }
    let Some(version) = version_in(path) else {
        return Err(format!(
            "LIBTORCH is {}, which has no file build-version that states its version; point LIBTORCH at a \
             LibTorch {VERSION}, {remedy}",
            path.display()
        ));
    };
    if !serves(&version, bypass) {
        return Err(format!(
            "LIBTORCH is {}, which holds LibTorch {version}, and tch 0.24 binds {VERSION}; point LIBTORCH at a \
             LibTorch {VERSION}, {remedy}",
            path.display()
        ));
    }
    if !path.join("lib").is_dir() || !path.join("include").is_dir() {
        return Err(format!(
            "LIBTORCH is {}, which lacks lib/ or include/; point LIBTORCH at a whole LibTorch {VERSION}, {remedy}",
            path.display()
        ));
    }
    Ok(Chosen::Folder { path: path.to_path_buf(), version })
}

/// The version a LibTorch folder states: `build-version` of the archives, `version.py` of the wheels.
fn version_in(path: &Path) -> Option<String> {
    if let Ok(text) = fs::read_to_string(path.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    version_of_python_file(&fs::read_to_string(path.join("version.py")).ok()?)
}

/// The string after `__version__ =` in a wheel's `version.py`.
fn version_of_python_file(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("__version__"))?;
    line.split(['\'', '"']).nth(1).map(str::to_owned)
}

/// Whether tch 0.24 builds against a version: 2.11.0 with any suffix, or any 2.11 where torch-sys was told to
/// bypass its own check.
fn serves(version: &str, bypass: bool) -> bool {
    let number = version.split('+').next().unwrap_or_default();
    number == VERSION || (bypass && number.starts_with("2.11."))
}

fn python(interpreter: &'static str, bypass: bool) -> Result<Chosen, String> {
    let remedy = format!(
        "install it with `{interpreter} -m pip install torch=={VERSION}`, or unset LIBTORCH_USE_PYTORCH to use the \
         LibTorch of `cargo xtask setup`"
    );
    let output = Command::new(interpreter).args(["-c", "import torch; print(torch.__version__)"]).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        return Err(format!("LIBTORCH_USE_PYTORCH is set, but `{interpreter}` cannot import torch; {remedy}"));
    };
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !serves(&version, bypass) {
        return Err(format!(
            "LIBTORCH_USE_PYTORCH is set, but `{interpreter}` has torch {version}, and tch 0.24 binds {VERSION}; \
             {remedy}"
        ));
    }
    Ok(Chosen::Python { interpreter, version })
}

#[cfg(test)]
mod tests {
    use super::super::installed::tests::Scratch;
    use super::*;

    #[test]
    fn versions_that_serve() {
        assert!(serves("2.11.0", false));
        assert!(serves("2.11.0+cu130", false));
        assert!(serves("2.11.1", true));
        assert!(!serves("2.11.1", false));
        assert!(!serves("2.10.0+cpu", true));
        assert!(!serves("", false));
    }

    #[test]
    fn cargos_value_is_not_the_users() {
        let workspace = Workspace { root: PathBuf::from("/nowhere/checkout") };
        assert_eq!(users_value(Some("/nowhere/checkout/.libtorch".into()), &workspace), None);
        assert_eq!(users_value(None, &workspace), None);
        assert_eq!(users_value(Some("/opt/torch".into()), &workspace), Some("/opt/torch".into()));
    }

    #[test]
    fn a_folder_is_checked() {
        let scratch = Scratch::new("chosen");
        let message = |path: &Path| folder(path, false).expect_err("must be refused");
        assert!(message(Path::new("torch")).contains("no absolute path"));
        assert!(message(&scratch.path).contains("no file build-version"));
        scratch.write("build-version", "2.9.1+cpu\n");
        assert!(message(&scratch.path).contains("holds LibTorch 2.9.1+cpu"));
        scratch.write("build-version", "2.11.0+cpu\n");
        assert!(message(&scratch.path).contains("lacks lib/"));
        scratch.write("lib/libtorch.so", "x");
        scratch.write("include/torch/torch.h", "x");
        let found = folder(&scratch.path, false);
        assert_eq!(found, Ok(Chosen::Folder { path: scratch.path.clone(), version: "2.11.0+cpu".to_owned() }));
    }

    #[test]
    fn a_wheels_version_is_read() {
        let text = "from typing import Optional\n\n__all__ = ['__version__']\n__version__ = '2.11.0+cu130'\n";
        assert_eq!(version_of_python_file(text).as_deref(), Some("2.11.0+cu130"));
        assert_eq!(version_of_python_file("debug = False\n"), None);
    }
}
