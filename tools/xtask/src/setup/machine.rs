//! What the machine must offer before anything is fetched; each check fails with one sentence and its remedy.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::REMEDY;
use crate::workspace::Workspace;

/// The wheels (0.5 GB), pip's temporary copy of the largest, and what is extracted (0.6 GB), with a reserve.
const INSTALL_BYTES: u64 = 2_500_000_000;

/// A release build of the workspace and its tests.
const BUILD_BYTES: u64 = 1_500_000_000;

/// The oldest Python that the embedded program was written for.
const OLDEST_PYTHON: (u32, u32) = (3, 8);

/// The glibc that the torch wheel was built against (its platform tag).
const OLDEST_GLIBC: (u32, u32) = (2, 28);

/// All checks, in the order in which a user would meet the problems. With a workspace, its build needs disk too.
pub fn check(folder: &Path, workspace: Option<&Workspace>) -> Result<(), String> {
    check_platform(std::env::consts::OS, std::env::consts::ARCH)?;
    check_compiler()?;
    check_python()?;
    check_pip()?;
    check_disk(folder, workspace)
}

fn check_platform(os: &str, architecture: &str) -> Result<(), String> {
    if (os, architecture) == ("linux", "x86_64") {
        return Ok(());
    }
    Err(format!(
        "`cargo xtask setup` knows LibTorch for Linux on x86_64 only, and this is {os} on {architecture}; {REMEDY}"
    ))
}

/// Compiles a trivial program the way the binding's build script will: `$CXX`, else `c++`.
pub fn check_compiler() -> Result<(), String> {
    let compiler = std::env::var("CXX").ok().filter(|value| !value.trim().is_empty()).unwrap_or("c++".to_owned());
    let mut words = compiler.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("c++"));
    command.args(words).args(["-std=c++17", "-x", "c++", "-c", "-", "-o", "/dev/null"]);
    match feed(&mut command, "#include <vector>\nint main() { return std::vector<int>{0}[0]; }\n") {
        Ok(None) => Ok(()),
        Ok(Some(complaint)) => Err(format!(
            "the C++ compiler `{compiler}` cannot compile a trivial C++17 program; repair it, or set CXX to one that \
             can (on Debian and Ubuntu: `apt install g++`): {}",
            complaint.lines().next().unwrap_or("it says nothing")
        )),
        Err(_) => Err(format!(
            "no C++ compiler: `{compiler}` cannot be started; install one (on Debian and Ubuntu: `apt install g++`) \
             or set CXX to yours"
        )),
    }
}

/// Runs a command on a text; returns its error output where it fails.
fn feed(command: &mut Command, text: &str) -> std::io::Result<Option<String>> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that stops reading early says why in its own words.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output()?;
    Ok((!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn check_python() -> Result<(), String> {
    let remedy = "install Python 3.8 or later with pip (on Debian and Ubuntu: `apt install python3 python3-pip`)";
    let probe = "import csv, hashlib, os, sys, zipfile, zlib\n\
                 print('python %d.%d' % sys.version_info[:2])\n\
                 print(os.confstr('CS_GNU_LIBC_VERSION'))";
    let output = Command::new("python3").args(["-I", "-c", probe]).output();
    let output = output.map_err(|_| format!("no `python3` on the PATH; {remedy}"))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    match version_after(&answer, "python ") {
        Some(version) if version < OLDEST_PYTHON => {
            return Err(format!("`python3` is Python {}.{}, which is too old; {remedy}", version.0, version.1));
        }
        Some(_) => {}
        None => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let complaint = complaint.trim().lines().last().unwrap_or("it says nothing").to_owned();
            return Err(format!("`python3` does not work; {remedy}: {complaint}"));
        }
    }
    match version_after(&answer, "glibc ") {
        Some(version) if version < OLDEST_GLIBC => Err(format!(
            "this system has glibc {}.{}, and the LibTorch wheel needs {}.{} or later; update the system, or build \
             LibTorch 2.11.0 from source and set LIBTORCH",
            version.0, version.1, OLDEST_GLIBC.0, OLDEST_GLIBC.1
        )),
        Some(_) => Ok(()),
        None => Err(format!("the C library of this system is not glibc, which the LibTorch wheel needs; {REMEDY}")),
    }
}

/// The `major.minor` that follows a word.
fn version_after(text: &str, word: &str) -> Option<(u32, u32)> {
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    let (major, minor) = line.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

fn check_pip() -> Result<(), String> {
    let output = Command::new("python3").args(["-m", "pip", "--version"]).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("`python3 -m pip` does not work; install pip (on Debian and Ubuntu: `apt install python3-pip`; \
                  elsewhere: `python3 -m ensurepip --user`)"
            .to_owned()),
    }
}

/// The free space of a disk, and which disk it is.
#[derive(Debug, PartialEq, Eq)]
struct Disk {
    mount: String,
    free_bytes: u64,
}

fn check_disk(folder: &Path, workspace: Option<&Workspace>) -> Result<(), String> {
    let Some(install_disk) = disk_of(folder) else {
        println!("free disk space could not be read (`df -Pk` failed); going on");
        return Ok(());
    };
    let Some(workspace) = workspace else {
        return enough(&install_disk, INSTALL_BYTES, folder);
    };
    let target = workspace.target_folder().unwrap_or_else(|_| workspace.root.join("target"));
    match disk_of(&target) {
        Some(target_disk) if target_disk.mount != install_disk.mount => {
            enough(&install_disk, INSTALL_BYTES, folder)?;
            enough(&target_disk, BUILD_BYTES, &target)
        }
        _ => enough(&install_disk, INSTALL_BYTES + BUILD_BYTES, folder),
    }
}

fn enough(disk: &Disk, n_bytes: u64, path: &Path) -> Result<(), String> {
    if disk.free_bytes >= n_bytes {
        return Ok(());
    }
    Err(format!(
        "the disk of {} has {:.1} GB free, and {:.1} GB are needed; free some, or take a LibTorch on another disk \
         (`cargo xtask setup --into DIR`, then LIBTORCH=DIR) and CARGO_TARGET_DIR for the build",
        path.display(),
        disk.free_bytes as f64 / 1e9,
        n_bytes as f64 / 1e9
    ))
}

fn disk_of(path: &Path) -> Option<Disk> {
    // `df` knows existing paths only.
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let output = Command::new("df").arg("-Pk").arg(existing).output().ok()?;
    parse_df(&String::from_utf8_lossy(&output.stdout))
}

/// Reads the second line of `df -Pk`: device, blocks, used, available, capacity, mount point.
fn parse_df(text: &str) -> Option<Disk> {
    // The device may hold spaces and the mount point too: the capacity's percent sign is the fixed point.
    let words: Vec<&str> = text.lines().nth(1)?.split_whitespace().collect();
    let capacity = words.iter().position(|word| word.ends_with('%'))?;
    let free_kib: u64 = words.get(capacity.checked_sub(1)?)?.parse().ok()?;
    Some(Disk { mount: words.get(capacity + 1..)?.join(" "), free_bytes: free_kib * 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_platforms_get_the_remedy() {
        assert_eq!(check_platform("linux", "x86_64"), Ok(()));
        for (os, architecture) in [("linux", "aarch64"), ("macos", "aarch64"), ("windows", "x86_64")] {
            let message = check_platform(os, architecture).expect_err("must be refused");
            assert!(message.contains("set LIBTORCH to") && message.contains("LIBTORCH_USE_PYTORCH=1"), "{message}");
        }
    }

    #[test]
    fn versions_are_read() {
        let answer = "python 3.11\nglibc 2.36\n";
        assert_eq!(version_after(answer, "python "), Some((3, 11)));
        assert_eq!(version_after(answer, "glibc "), Some((2, 36)));
        assert_eq!(version_after("", "python "), None);
        assert!((3, 7) < OLDEST_PYTHON && (3, 10) > OLDEST_PYTHON);
    }

    #[test]
    fn df_is_read() {
        let text = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/my disk 100 60 40 60% /my home\n";
        assert_eq!(parse_df(text), Some(Disk { mount: "/my home".to_owned(), free_bytes: 40 * 1024 }));
        assert_eq!(parse_df("df: no such file\n"), None);
    }

    #[test]
    fn a_full_disk_is_refused() {
        let disk = Disk { mount: "/".to_owned(), free_bytes: 1_000_000_000 };
        assert_eq!(enough(&disk, 900_000_000, Path::new("/x")), Ok(()));
        let message = enough(&disk, INSTALL_BYTES, Path::new("/x")).expect_err("must be refused");
        assert!(message.starts_with("the disk of /x has 1.0 GB free, and 2.5 GB are needed"), "{message}");
    }
}
