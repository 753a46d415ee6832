//! Where the workspace lies, and which cargo, target folder and LibTorch belong to it.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::process;

/// The workspace this program was started from.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The folder of the workspace's `Cargo.toml`.
    pub root: PathBuf,
}

impl Workspace {
    /// Finds the root from the package's folder, which cargo hands over when it runs the program; a
    /// binary started by hand falls back on where it was compiled.
    pub fn find() -> Result<Self, String> {
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package.ancestors().nth(2).map(Path::to_path_buf);
        match root {
            Some(root) if root.join("Cargo.toml").is_file() => Ok(Self { root }),
            _ => Err(format!(
                "no workspace two folders above {}; run this as `cargo xtask` inside the checkout",
                package.display()
            )),
        }
    }

    /// The folder that `setup` fills, and that `.cargo/config.toml` names.
    pub fn libtorch(&self) -> PathBuf {
        self.root.join(".libtorch")
    }

    /// A `cargo` call in the root.
    ///
    /// The LIBTORCH that `.cargo/config.toml` gave to this process is taken out again: cargo sets it for
    /// itself, and the call then has the environment of one that the user types, so neither compiles
    /// LibTorch's binding anew after the other.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        if std::env::var_os("LIBTORCH").is_some_and(|value| self.is_own_libtorch(&value)) {
            command.env_remove("LIBTORCH");
        }
        command
    }

    /// Whether a value of LIBTORCH is the one of `.cargo/config.toml`, and not a choice of the user's.
    pub fn is_own_libtorch(&self, value: &OsStr) -> bool {
        same_folder(Path::new(value), &self.libtorch())
    }

    /// Where cargo builds: the environment, cargo's configuration or `target`, as cargo itself resolves it.
    pub fn target_folder(&self) -> Result<PathBuf, String> {
        let mut command = self.cargo();
        command.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
        let output = process::capture(&mut command)?;
        target_directory(&output)
            .ok_or_else(|| "`cargo metadata` names no target_directory; is cargo older than 1.88?".to_owned())
    }
}

/// Compares two paths without asking the file system first: the folder may not exist yet.
fn same_folder(one: &Path, other: &Path) -> bool {
    if let (Ok(one), Ok(other)) = (one.canonicalize(), other.canonicalize()) {
        return one == other;
    }
    lexically_normal(one) == lexically_normal(other)
}

fn lexically_normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            _ => normal.push(component),
        }
    }
    normal
}

/// The `target_directory` of `cargo metadata`'s JSON; one string is no reason for a JSON parser.
fn target_directory(metadata: &str) -> Option<PathBuf> {
    let (_, rest) = metadata.split_once("\"target_directory\":\"")?;
    let mut path = String::new();
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '"' => return Some(PathBuf::from(path)),
            '\\' => path.push(characters.next()?),
            character => path.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_libtorch_is_told_from_the_users() {
        let workspace = Workspace { root: PathBuf::from("/nowhere/checkout") };
        assert!(workspace.is_own_libtorch("/nowhere/checkout/.libtorch".as_ref()));
        assert!(workspace.is_own_libtorch("/nowhere/checkout/.cargo/../.libtorch/".as_ref()));
        assert!(!workspace.is_own_libtorch("/opt/libtorch".as_ref()));
        assert!(!workspace.is_own_libtorch("".as_ref()));
    }

    #[test]
    fn target_directory_is_read_from_metadata() {
        let metadata = r#"{"packages":[],"target_directory":"/a/b \"c\"","version":1}"#;
        assert_eq!(target_directory(metadata), Some(PathBuf::from("/a/b \"c\"")));
        assert_eq!(target_directory("{}"), None);
        assert_eq!(target_directory(r#"{"target_directory":"/cut"#), None);
    }
}
