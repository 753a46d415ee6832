//! Running other programs: shown to the user, captured, or both.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How many lines of a failed program's error output are kept to be shown again.
const KEPT_LINES: usize = 40;

/// Runs a command whose output goes straight to the user; a bad exit status is an error.
pub fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| not_started(command, &error))?;
    if status.success() { Ok(()) } else { Err(format!("`{}` failed ({status})", shown(command))) }
}

/// Runs a command and returns what it wrote to standard output.
pub fn capture(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| not_started(command, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{}` failed ({}): {}", shown(command), output.status, complaint.trim()))
}

/// Runs a command that shows all its output, and hands back the last lines of its error output if it fails.
pub fn run_keeping_complaints(command: &mut Command) -> Result<(), Vec<String>> {
    let start = command.stderr(Stdio::piped()).spawn();
    let mut child = start.map_err(|error| vec![not_started(command, &error)])?;
    let mut kept = VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            // Nothing can be done about a closed terminal, and the lines are kept all the same.
            let _ = writeln!(io::stderr(), "{line}");
            if kept.len() == KEPT_LINES {
                kept.pop_front();
            }
            kept.push_back(line);
        }
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(kept.into()),
        Err(error) => Err(vec![format!("`{}` could not be waited for: {error}", shown(command))]),
    }
}

/// The command line as a user would type it (quotes are left out).
pub fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

fn not_started(command: &Command, error: &io::Error) -> String {
    format!("`{}` could not be started: {error}", command.get_program().to_string_lossy())
}

/// A duration for people: `4.2 s`, `3 min 05 s`, `1 h 02 min`.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_readable() {
        assert_eq!(human(Duration::from_millis(4230)), "4.2 s");
        assert_eq!(human(Duration::from_secs(185)), "3 min 05 s");
        assert_eq!(human(Duration::from_secs(3725)), "1 h 02 min");
    }

    #[test]
    fn a_missing_program_is_named() {
        let failure = run(&mut Command::new("no-such-program-xtask"));
        assert!(failure.is_err_and(|message| { message.contains("`no-such-program-xtask` could not be started") }));
    }

    #[test]
    fn complaints_are_kept() {
        let failure = run_keeping_complaints(Command::new("sh").args(["-c", "echo one >&2; echo two >&2; exit 3"]));
        assert_eq!(failure, Err(vec!["one".to_owned(), "two".to_owned()]));
        assert_eq!(run_keeping_complaints(&mut Command::new("true")), Ok(()));
    }
}
