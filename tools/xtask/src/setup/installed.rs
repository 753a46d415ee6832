//! What lies in a LibTorch folder: whether it is complete, and the last steps that make it so.

use std::fs;
use std::io;
use std::path::Path;

use super::{VERSION, wheels};

/// The shared libraries of a complete folder.
const LIBRARIES: [&str; 5] = ["libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"];

/// A header whose presence stands for all of them: `include/` is extracted before the libraries.
const HEADER: &str = "include/torch/csrc/api/include/torch/torch.h";

const STAMP: &str = "setup-stamp";

/// The first line of the stamp; its number rises with a change in what is extracted.
const RECIPE: &str = "LibTorch 2.11.0 for the CPU, recipe 1";

/// The state of a LibTorch folder.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// Everything is there.
    Complete,
    /// Absent, or an interrupted set-up of this version.
    Incomplete,
    /// A set-up of another version or recipe of ours, to be replaced.
    Outdated,
    /// Another LibTorch that was not put there by this program, not to be touched.
    Foreign { found: String },
}

/// Looks at names and sizes only, to return at once; `sha256sum -c SHA256SUMS` in the folder looks at all bytes.
pub fn state(folder: &Path) -> State {
    let stamp = fs::read_to_string(folder.join(STAMP)).ok();
    if let Some(stamp) = &stamp {
        if !stamp.starts_with(RECIPE) {
            return State::Outdated;
        }
        let whole = stamp_of(folder).is_ok_and(|present| present == *stamp) && has_all(folder);
        return if whole { State::Complete } else { State::Incomplete };
    }
    match fs::read_to_string(folder.join("build-version")) {
        // Written after the last member was verified: enough even where the stamp was not reached.
        Ok(version) if version.trim() == VERSION && has_all(folder) => State::Complete,
        Ok(version) if version.trim() == VERSION => State::Incomplete,
        Ok(version) => State::Foreign { found: version.trim().to_owned() },
        Err(_) => State::Incomplete,
    }
}

fn has_all(folder: &Path) -> bool {
    let filled = |path: &str| fs::metadata(folder.join(path)).is_ok_and(|file| file.is_file() && file.len() > 0);
    LIBRARIES.iter().all(|name| filled(&format!("lib/{name}"))) && filled("lib/libtorch.so") && filled(HEADER)
}

fn stamp_of(folder: &Path) -> io::Result<String> {
    let mut stamp = format!("{RECIPE}\n");
    for name in LIBRARIES {
        let n_bytes = fs::metadata(folder.join("lib").join(name))?.len();
        stamp.push_str(&format!("{n_bytes} lib/{name}\n"));
    }
    Ok(stamp)
}

/// The steps after the last verified member: linker script, version, wheels away, stamp.
pub fn finish(folder: &Path) -> Result<(), String> {
    // torch-sys links `-ltorch`, which in a full LibTorch is an empty library that pulls in the others.
    write(folder, "lib/libtorch.so", "INPUT(-ltorch_cpu)\n")?;
    write(folder, "build-version", &format!("{VERSION}\n"))?;
    wheels::discard(folder)?;
    let stamp = stamp_of(folder).map_err(|error| format!("{} is not complete: {error}", folder.display()))?;
    write(folder, STAMP, &stamp)
}

/// Removes what an earlier version of this program extracted.
pub fn remove(folder: &Path) -> Result<(), String> {
    // The stamp goes last: as long as it is there, the folder counts as ours.
    for name in ["build-version", "SHA256SUMS", "include", "lib", STAMP] {
        let path = folder.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("{} cannot be removed: {error}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), String> {
    let path = folder.join(name);
    let partial = folder.join(format!("{name}.partial"));
    fs::write(&partial, text)
        .and_then(|()| fs::rename(&partial, &path))
        .map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

#[cfg(test)]
pub mod tests {
    //! The scratch folder here serves the tests beside this one as well.

    use std::path::PathBuf;

    use super::*;

    /// A folder of its own for one test, removed with the value.
    pub struct Scratch {
        pub path: PathBuf,
    }

    impl Scratch {
        pub fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("a scratch folder");
            Self { path }
        }

        pub fn write(&self, name: &str, text: &str) {
            let path = self.path.join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a scratch folder");
            fs::write(path, text).expect("a scratch file");
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.path);
        }
    }

    fn extracted(name: &str) -> Scratch {
        let scratch = Scratch::new(name);
        for library in LIBRARIES {
            scratch.write(&format!("lib/{library}"), library);
        }
        scratch.write(HEADER, "x");
        scratch
    }

    #[test]
    fn finishing_completes_a_folder() {
        let scratch = extracted("finish");
        scratch.write("wheels/torch.whl", "x");
        assert_eq!(state(&scratch.path), State::Incomplete);
        assert_eq!(finish(&scratch.path), Ok(()));
        assert_eq!(state(&scratch.path), State::Complete);
        assert!(!scratch.path.join("wheels").exists());
    }

    #[test]
    fn a_folder_made_by_hand_is_accepted() {
        let scratch = extracted("by-hand");
        scratch.write("lib/libtorch.so", "INPUT(-ltorch_cpu)\n");
        scratch.write("build-version", "2.11.0\n");
        assert_eq!(state(&scratch.path), State::Complete);
    }

    #[test]
    fn a_changed_size_or_a_missing_header_is_noticed() {
        let scratch = extracted("changed");
        assert_eq!(finish(&scratch.path), Ok(()));
        scratch.write("lib/libc10.so", "short");
        assert_eq!(state(&scratch.path), State::Incomplete);
        scratch.write("lib/libc10.so", "libc10.so");
        assert_eq!(state(&scratch.path), State::Complete);
        fs::remove_file(scratch.path.join(HEADER)).expect("the header");
        assert_eq!(state(&scratch.path), State::Incomplete);
    }

    #[test]
    fn other_versions_are_ours_or_foreign() {
        let scratch = Scratch::new("versions");
        assert_eq!(state(&scratch.path), State::Incomplete);
        scratch.write("build-version", "2.7.1+cpu\n");
        assert_eq!(state(&scratch.path), State::Foreign { found: "2.7.1+cpu".to_owned() });
        scratch.write(STAMP, "LibTorch 2.7.1 for the CPU, recipe 1\n");
        assert_eq!(state(&scratch.path), State::Outdated);
        assert_eq!(remove(&scratch.path), Ok(()));
        assert_eq!(state(&scratch.path), State::Incomplete);
    }
}
