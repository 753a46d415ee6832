//! `cargo xtask <command>`: everything of this workspace that is not a crate of its own.
//!
//! Depends on nothing but the standard library, so that a fresh machine compiles it in seconds and
//! `setup` can run before LibTorch, which every other crate links, exists.

mod check;
mod demo;
mod process;
mod setup;
mod tidy;
mod workspace;

use std::process::ExitCode;

use workspace::Workspace;

const HELP: &str = "\
set-up, demo, tests and checks of the sparc workspace

usage: cargo xtask <command>

commands:
  setup [--into DIR]  put LibTorch 2.11.0 (CPU, about 0.6 GB) under .libtorch/; needs Python 3.8+ with pip
                      and a C++ compiler; run it again after an interruption and it goes on
  demo                setup, build, then data, tokenizer, CLIP and SPARC runs and their report in runs/demo/
  test [ARGS]         setup, then cargo test --workspace --release ARGS (doc tests included)
  ci                  fmt, clippy, docs, tests, tidy: all of them, then which failed
  tidy                the invariants of docs/architecture.md as checks over the files of the repository
  help                this text

LibTorch of your own: LIBTORCH=/absolute/path, or LIBTORCH_USE_PYTORCH=1, wins over .libtorch/.
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Help,
    Setup { into: Option<String> },
    Demo,
    Test { passed_on: Vec<String> },
    Ci,
    Tidy,
}

fn parse(arguments: &[String]) -> Result<Command, String> {
    let Some((name, rest)) = arguments.split_first() else {
        return Ok(Command::Help);
    };
    let plain = |command: Command| match rest.first() {
        None => Ok(command),
        Some(extra) => Err(format!("`{name}` takes no argument, got `{extra}`; see `cargo xtask help`")),
    };
    match name.as_str() {
        "help" | "-h" | "--help" => Ok(Command::Help),
        "setup" => match rest {
            [] => Ok(Command::Setup { into: None }),
            [flag, folder] if flag == "--into" => Ok(Command::Setup { into: Some(folder.clone()) }),
            _ => Err("`setup` takes nothing but `--into DIR`; see `cargo xtask help`".to_owned()),
        },
        "demo" => plain(Command::Demo),
        "test" => Ok(Command::Test { passed_on: rest.to_vec() }),
        "ci" => plain(Command::Ci),
        "tidy" => plain(Command::Tidy),
        _ => Err(format!("no command `{name}`; see `cargo xtask help`")),
    }
}

/// Runs the command; `Ok(false)` means that checks ran and found something.
fn run(arguments: &[String]) -> Result<bool, String> {
    let command = parse(arguments)?;
    let workspace = Workspace::find()?;
    match command {
        Command::Help => {
            print!("{HELP}");
            Ok(true)
        }
        Command::Setup { into: Some(folder) } => setup::into_folder(folder.as_ref()).map(|()| true),
        Command::Setup { into: None } => setup::setup(&workspace).map(|_| true),
        Command::Demo => demo::demo(&workspace).map(|()| true),
        Command::Test { passed_on } => check::test(&workspace, &passed_on).map(|()| true),
        Command::Ci => check::ci(&workspace),
        Command::Tidy => tidy::tidy(&workspace),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&arguments)
    }

    #[test]
    fn commands_are_recognised() {
        assert_eq!(parsed(""), Ok(Command::Help));
        assert_eq!(parsed("setup"), Ok(Command::Setup { into: None }));
        assert_eq!(parsed("setup --into x"), Ok(Command::Setup { into: Some("x".to_owned()) }));
        assert_eq!(
            parsed("test -p a -- b"),
            Ok(Command::Test { passed_on: ["-p", "a", "--", "b"].map(str::to_owned).to_vec() })
        );
    }

    #[test]
    fn unknown_words_are_refused() {
        assert!(parsed("tidy now").is_err_and(|message| message.contains("`now`")));
        assert!(parsed("setup --force").is_err());
        assert!(parsed("build").is_err_and(|message| message.contains("`build`")));
    }

    #[test]
    fn help_names_every_command() {
        for name in ["setup", "demo", "test", "ci", "tidy", "help"] {
            assert!(HELP.contains(&format!("\n  {name} ")), "{name}");
        }
    }
}
