//! The wheels: fetched by pip, opened by an embedded Python program, thrown away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{REMEDY, VERSION};
use crate::process;

/// Python's `zipfile` and `hashlib` spare us dependencies: pip needs Python anyway.
const EXTRACT: &str = include_str!("extract.py");

/// The exit status of the program where a wheel was damaged.
const DAMAGED: i32 = 3;

/// A wheel: what pip is asked for, and what is taken out of it.
struct Wheel {
    project: &'static str,
    version: &'static str,
    /// The wheel's platform tag. Named, so that every Python fetches the same file: the libraries do not
    /// depend on the interpreter, and torch has wheels for few of them.
    platform: &'static str,
    /// `FROM=TO`; a FROM that ends in `/` is a folder.
    members: &'static [&'static str],
}

/// LibTorch, and the two CUDA libraries that its `libtorch_cpu.so` links even where no GPU is.
const WHEELS: [Wheel; 3] = [
    Wheel {
        project: "torch",
        version: VERSION,
        platform: "manylinux_2_28_x86_64",
        members: &[
            "torch/include/=include/",
            "torch/lib/libc10.so=lib/libc10.so",
            "torch/lib/libgomp.so.1=lib/libgomp.so.1",
            "torch/lib/libtorch_cpu.so=lib/libtorch_cpu.so",
        ],
    },
    Wheel {
        project: "nvidia-cuda-runtime",
        version: "13.0.96",
        platform: "manylinux2014_x86_64",
        members: &["nvidia/cu13/lib/libcudart.so.13=lib/libcudart.so.13"],
    },
    Wheel {
        project: "nvidia-cuda-cupti",
        version: "13.0.85",
        platform: "manylinux_2_25_x86_64",
        members: &["nvidia/cu13/lib/libcupti.so.13=lib/libcupti.so.13"],
    },
];

impl Wheel {
    fn requirement(&self) -> String {
        format!("{}=={}", self.project, self.version)
    }

    /// Whether a file name is a wheel of this project and version, a local version such as `+cpu` included.
    fn is_named(&self, file_name: &str) -> bool {
        let start = format!("{}-{}", self.project.replace('-', "_"), self.version);
        let rest = file_name.strip_prefix(&start);
        file_name.ends_with(".whl") && rest.is_some_and(|rest| rest.starts_with(['-', '+']))
    }

    fn find(&self, wheels: &Path) -> io::Result<Option<PathBuf>> {
        for entry in fs::read_dir(wheels)? {
            let entry = entry?;
            if self.is_named(&entry.file_name().to_string_lossy()) {
                return Ok(Some(entry.path()));
            }
        }
        Ok(None)
    }
}

fn folder_of(libtorch: &Path) -> PathBuf {
    libtorch.join("wheels")
}

/// Fetches the wheels that are not there whole, and returns their paths in the order of [`WHEELS`].
pub fn fetch(libtorch: &Path) -> Result<Vec<PathBuf>, String> {
    let wheels = folder_of(libtorch);
    let partial = wheels.join("partial");
    let io_failed = |error: io::Error| format!("{}: {error}", wheels.display());
    // Emptied: a killed pip leaves its half of a file behind.
    remove_folder(&partial).map_err(io_failed)?;
    fs::create_dir_all(&partial).map_err(io_failed)?;
    let mut paths = Vec::new();
    for wheel in &WHEELS {
        if let Some(path) = wheel.find(&wheels).map_err(io_failed)? {
            // Its table of contents stands at its end, so a wheel that was cut off fails here; other damage is
            // found member by member during the extraction.
            if is_whole(&path) {
                println!("{} is already fetched", wheel.requirement());
                paths.push(path);
                continue;
            }
            println!("{} was fetched in part and is fetched again", wheel.requirement());
            fs::remove_file(&path).map_err(io_failed)?;
        }
        process::run_keeping_complaints(&mut download(wheel, &wheels, &partial))
            .map_err(|complaints| explain(&wheel.requirement(), &complaints))?;
        let path = wheel
            .find(&wheels)
            .map_err(io_failed)?
            .ok_or_else(|| format!("pip fetched {} but left no wheel in {}", wheel.requirement(), wheels.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

fn download(wheel: &Wheel, wheels: &Path, partial: &Path) -> Command {
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"]);
    command.args(["--implementation", "cp", "--python-version", "3.12", "--platform", wheel.platform]);
    command.arg("-d").arg(wheels).arg(wheel.requirement());
    // pip writes to its temporary folder first: on the disk that was found large enough, and cleaned by us.
    command.env("TMPDIR", partial);
    command.env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    // Nothing is installed, so a rule of the user's against installing outside environments does not apply.
    command.env("PIP_REQUIRE_VIRTUALENV", "0");
    // A connection that breaks off is taken up again, by the versions of pip that can.
    command.env("PIP_RESUME_RETRIES", "5");
    command
}

fn is_whole(path: &Path) -> bool {
    python().arg("whole").arg(path).status().is_ok_and(|status| status.success())
}

fn python() -> Command {
    let mut command = Command::new("python3");
    // Isolated: nothing of the user's Python set-up may shadow the standard modules.
    command.args(["-I", "-c", EXTRACT]);
    command
}

/// Extracts and verifies; returns `false` where a wheel was damaged and is deleted now.
pub fn extract(libtorch: &Path, paths: &[PathBuf]) -> Result<bool, String> {
    let mut command = python();
    command.arg("extract").arg(libtorch);
    for (wheel, path) in WHEELS.iter().zip(paths) {
        command.arg("--").arg(path).args(wheel.members);
    }
    let status = command.status().map_err(|error| format!("`python3` could not be started: {error}"))?;
    match status.code() {
        Some(0) => Ok(true),
        Some(DAMAGED) => Ok(false),
        _ => Err(format!(
            "the extraction into {} stopped ({status}); the reason is above, and `cargo xtask setup` goes on from there",
            libtorch.display()
        )),
    }
}

/// Deletes the wheels, and whatever pip left of them.
pub fn discard(libtorch: &Path) -> Result<(), String> {
    let wheels = folder_of(libtorch);
    remove_folder(&wheels).map_err(|error| format!("{} cannot be removed: {error}", wheels.display()))
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// One sentence about why pip failed, its remedy, and pip's last lines.
fn explain(requirement: &str, complaints: &[String]) -> String {
    let says = |words: &[&str]| complaints.iter().any(|line| words.iter().any(|word| line.contains(word)));
    // pip ends with "No matching distribution" after a failed connection as well, so the network comes first.
    let network = [
        "Temporary failure in name resolution",
        "NewConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "Read timed out",
        "Max retries exceeded",
        "ProxyError",
        "SSLError",
        "Connection reset",
        "ConnectionError",
        "ConnectionResetError",
        "IncompleteRead",
        "HTTPSConnectionPool",
        "connection broken",
    ];
    let sentence = if says(&["No space left", "Disk quota exceeded"]) {
        format!("the disk filled up while pip fetched {requirement}; free some space and run `cargo xtask setup` again")
    } else if says(&network) {
        format!(
            "pip could not reach its package index for {requirement}; check the network (and pip's proxy settings) \
             and run `cargo xtask setup` again, which keeps what it has, or {REMEDY}"
        )
    } else if says(&["No matching distribution"]) {
        format!(
            "pip's package index has no wheel {requirement} for Linux on x86_64; point pip at an index that has it \
             (PIP_INDEX_URL), or {REMEDY}"
        )
    } else {
        format!("pip could not fetch {requirement}; see its message, run `cargo xtask setup` again, or {REMEDY}")
    };
    let filled: Vec<&String> = complaints.iter().filter(|line| !line.trim().is_empty()).collect();
    let mut message = sentence;
    for line in &filled[filled.len().saturating_sub(4)..] {
        message.push_str(&format!("\n  pip: {line}"));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_line(lines: &[&str]) -> String {
        let complaints: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        explain("torch==2.11.0", &complaints).lines().next().unwrap_or_default().to_owned()
    }

    #[test]
    fn wheels_are_known_by_name() {
        let torch = &WHEELS[0];
        assert!(torch.is_named("torch-2.11.0-cp312-cp312-manylinux_2_28_x86_64.whl"));
        assert!(torch.is_named("torch-2.11.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"));
        assert!(!torch.is_named("torch-2.11.01-cp312-cp312-manylinux_2_28_x86_64.whl"));
        assert!(!torch.is_named("torch-2.11.0-cp312-cp312-manylinux_2_28_x86_64.whl.partial"));
        assert!(WHEELS[1].is_named("nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.whl"));
    }

    #[test]
    fn a_missing_network_is_not_a_missing_wheel() {
        let down = [
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)'",
            "ERROR: No matching distribution found for torch==2.11.0",
        ];
        assert!(first_line(&down).starts_with("pip could not reach its package index"));
        assert!(first_line(&down[1..]).starts_with("pip's package index has no wheel torch==2.11.0"));
    }

    #[test]
    fn other_failures_keep_pips_last_lines() {
        assert!(first_line(&["OSError: [Errno 28] No space left on device"]).starts_with("the disk filled up"));
        let complaints: Vec<String> = ["a", "b", "", "c", "d", "e"].map(str::to_owned).to_vec();
        let message = explain("torch==2.11.0", &complaints);
        assert!(message.ends_with("\n  pip: b\n  pip: c\n  pip: d\n  pip: e"), "{message}");
    }
}
