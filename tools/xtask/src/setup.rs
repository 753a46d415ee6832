//! `cargo xtask setup`: LibTorch under `.libtorch/`, or the user's own one checked.
//!
//! The wheels of PyTorch and of two CUDA libraries are fetched by pip, and only what a CPU needs is taken out
//! of them. Every step can be killed and run again: whole wheels are not fetched twice, verified members are
//! not extracted twice, and the stamp comes last.

mod chosen;
mod installed;
mod machine;
mod wheels;

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::process;
use crate::workspace::Workspace;
use chosen::Chosen;
use installed::State;

/// The LibTorch that tch 0.24 binds.
const VERSION: &str = "2.11.0";

/// What to do where no LibTorch can be fetched; it ends several messages.
const REMEDY: &str = "set LIBTORCH to the absolute path of a LibTorch 2.11.0, or install torch==2.11.0 for your \
                      Python and set LIBTORCH_USE_PYTORCH=1";

/// Makes sure that the workspace has a LibTorch to build against: the user's own, or `.libtorch/`.
pub fn setup(workspace: &Workspace) -> Result<(), String> {
    match chosen::chosen(workspace)? {
        Some(own) => {
            machine::check_compiler()?;
            println!("{}", own_line(&own));
            Ok(())
        }
        None => install(&workspace.libtorch(), Some(workspace)),
    }
}

/// Puts LibTorch into any folder, whatever LIBTORCH says: one folder can serve several checkouts.
pub fn into_folder(folder: &Path) -> Result<(), String> {
    let folder = std::path::absolute(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    install(&folder, None)
}

fn own_line(own: &Chosen) -> String {
    match own {
        Chosen::Folder { path, version } => {
            format!("LibTorch {version} of your own in {}", path.display())
        }
        Chosen::Python { interpreter, version } => format!("LibTorch {version} of the PyTorch of `{interpreter}`"),
    }
}

fn install(folder: &Path, workspace: Option<&Workspace>) -> Result<(), String> {
    match installed::state(folder) {
        State::Complete => {
            println!("LibTorch {VERSION} is in {}", folder.display());
            return wheels::discard(folder);
        }
        State::Foreign { found } => {
            return Err(format!(
                "{} holds LibTorch {found}, and {VERSION} is needed; move that folder away and run \
                 `cargo xtask setup` again",
                folder.display()
            ));
        }
        State::Outdated => installed::remove(folder)?,
        State::Incomplete => {}
    }
    let start = Instant::now();
    machine::check(folder, workspace)?;
    fs::create_dir_all(folder).map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
    println!("setting up LibTorch {VERSION} in {} (up to 544 MB to fetch)", folder.display());
    // A second round fetches again what the first found damaged and deleted.
    if !fetch_and_extract(folder)? && !fetch_and_extract(folder)? {
        return Err("a wheel arrived damaged twice; clear pip's cache (`python3 -m pip cache purge`) and run \
                    `cargo xtask setup` again"
            .to_owned());
    }
    installed::finish(folder)?;
    println!("LibTorch {VERSION} is in {} ({})", folder.display(), process::human(start.elapsed()));
    Ok(())
}

/// Returns whether all members were verified; `false` means that a damaged wheel was deleted.
fn fetch_and_extract(folder: &Path) -> Result<bool, String> {
    let fetched = wheels::fetch(folder)?;
    wheels::extract(folder, &fetched)
}
