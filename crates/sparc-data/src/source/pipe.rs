//! The output of a shell command. A command that fails or stalls is started anew, and what has been
//! read of it already is passed over.

use std::io::{self, BufRead, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::{Attempts, Patience};

/// Bytes handed over at once, and how many such pieces wait to be read.
const PIECE_BYTES: usize = 256 << 10;
const PIECES: usize = 8;

/// Reads what a command prints.
pub(super) struct PipeReader {
    command: String,
    attempts: Attempts,
    running: Option<Running>,
    /// Bytes given out, buffer included.
    position: u64,
    buffer: Vec<u8>,
    consumed: usize,
}

/// A command at work; a thread reads it, so that the wait for it can end.
struct Running {
    child: Child,
    pieces: Receiver<io::Result<Vec<u8>>>,
    /// What an earlier attempt has given already.
    to_pass: u64,
}

impl PipeReader {
    /// Starts the command with `sh -c`.
    pub(super) fn start(command: &str, patience: Patience) -> io::Result<PipeReader> {
        Ok(PipeReader {
            command: command.into(),
            attempts: Attempts::new(patience),
            running: Some(Running::start(command, 0)?),
            position: 0,
            buffer: Vec::new(),
            consumed: 0,
        })
    }

    /// The next piece; empty at the end.
    fn next_piece(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let Some(running) = &mut self.running else {
                return Ok(Vec::new());
            };
            let failure = match running.pieces.recv_timeout(self.attempts.patience.timeout()) {
                Ok(Ok(mut piece)) => {
                    let pass = running.to_pass.min(piece.len() as u64);
                    running.to_pass -= pass;
                    piece.drain(..pass as usize);
                    if piece.is_empty() {
                        continue;
                    }
                    self.attempts.progressed(piece.len() as u64);
                    self.position += piece.len() as u64;
                    return Ok(piece);
                }
                Ok(Err(error)) => error.to_string(),
                Err(RecvTimeoutError::Timeout) => {
                    format!("it gave nothing for {} seconds", self.attempts.patience.timeout_s)
                }
                // The command has closed its output.
                Err(RecvTimeoutError::Disconnected) => match running.ended(self.attempts.patience.timeout())? {
                    Some(status) if status.success() && running.to_pass == 0 => {
                        self.running = None;
                        return Ok(Vec::new());
                    }
                    Some(status) if status.success() => "it gives less than it did before".into(),
                    Some(status) => format!("it ended with {status}"),
                    None => "it closed its output and does not end".into(),
                },
            };
            self.running = None;
            let Some(wait) = self.attempts.failed() else {
                return Err(io::Error::other(format!("the command `{}`: {failure}", self.command)));
            };
            tracing::warn!("pipe:{}: {failure}; once more, from byte {}", self.command, self.position);
            sleep(wait);
            self.running = Some(Running::start(&self.command, self.position)?);
        }
    }
}

impl Running {
    fn start(command: &str, to_pass: u64) -> io::Result<Running> {
        // In a group of its own, so that what the shell has started can be ended with it.
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("a command without output"))?;
        let (sender, pieces) = bounded(PIECES);
        let send = move |mut output: ChildStdout| {
            loop {
                let mut piece = vec![0; PIECE_BYTES];
                let message = match output.read(&mut piece) {
                    Ok(0) => return,
                    Ok(n) => {
                        piece.truncate(n);
                        Ok(piece)
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                if sender.send(message).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("sparc-pipe".into()).spawn(move || send(output))?;
        Ok(Running { child, pieces, to_pass })
    }

    /// How the command ended, if it does so in time.
    fn ended(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let started = Instant::now();
        loop {
            match self.child.try_wait()? {
                None if started.elapsed() < patience => sleep(Duration::from_millis(2)),
                status => return Ok(status),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The standard library ends a process, not its group; its reading thread ends with the last of them.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let group = format!("-{}", self.child.id());
            let killed = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
            if !killed.is_ok_and(|status| status.success()) {
                // It may have ended meanwhile.
                let _ = self.child.kill();
            }
            let _ = self.child.wait();
        }
    }
}

impl Read for PipeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(into)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.consumed == self.buffer.len() {
            self.buffer = self.next_piece()?;
            self.consumed = 0;
        }
        Ok(&self.buffer[self.consumed..])
    }

    fn consume(&mut self, amount: usize) {
        self.consumed += amount;
    }
}
