//! Prompts on the terminal: one line each, with or without echo. Ctrl-C stops a prompt.
//!
//! A blocking read would not notice an interrupt. So the terminal is read only when it has a line,
//! and the interrupt flag is checked in between. Input typed before the interrupt is discarded, and
//! the echo is always restored.

use zeroize::Zeroizing;

use crate::failure::Failure;

/// Longest line, in bytes.
const MAX_LINE_LEN_BYTES: usize = 4096;

/// Prompts for a line; with `hidden`, without echo. Returns the line without its end.
pub(crate) fn ask(question: &str, hidden: bool) -> Result<Zeroizing<String>, Failure> {
    imp::ask(question, hidden)
}

fn failed(source: std::io::Error) -> Failure {
    Failure::File { action: "ask on the terminal".into(), source }
}

#[cfg(unix)]
mod imp {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::sync::Arc;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use rustix::termios::{QueueSelector, tcflush};
    use zeroize::Zeroizing;

    use super::{MAX_LINE_LEN_BYTES, failed};
    use crate::echo::HiddenEcho;
    use crate::failure::Failure;
    use crate::interrupt;

    /// Interval between checks for Ctrl-C: 50 ms.
    const NAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

    pub(super) fn ask(question: &str, hidden: bool) -> Result<Zeroizing<String>, Failure> {
        let terminal = Arc::new(File::options().read(true).write(true).open("/dev/tty").map_err(failed)?);
        let _hidden = if hidden { Some(HiddenEcho::new(&terminal).map_err(failed)?) } else { None };
        (&*terminal).write_all(question.as_bytes()).map_err(failed)?;
        let answer = line(&terminal);
        if matches!(answer, Err(Failure::Interrupted { .. })) {
            // Discard the typed input: it must not answer the next prompt.
            let _gone = tcflush(&terminal, QueueSelector::IFlush);
            let _gone = (&*terminal).write_all(b"\n");
        }
        answer
    }

    fn line(terminal: &File) -> Result<Zeroizing<String>, Failure> {
        // The full capacity at once: a reallocation would leave a copy of a secret in freed memory.
        let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE_LEN_BYTES + 1));
        let mut byte = Zeroizing::new([0]);
        loop {
            interrupt::check()?;
            match poll(&mut [PollFd::new(terminal, PollFlags::IN)], Some(&NAP)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(failed(error.into())),
            }
            // The terminal has a whole line, so these reads do not block.
            let read = (&*terminal).read(byte.as_mut_slice()).map_err(failed)?;
            if read == 0 || byte[0] == b'\n' {
                break;
            }
            if line.len() >= MAX_LINE_LEN_BYTES {
                return Err(Failure::Usage("the typed line is too long".into()));
            }
            line.push(byte[0]);
        }
        match std::str::from_utf8(&line) {
            Ok(text) => Ok(Zeroizing::new(text.to_owned())),
            Err(_) => Err(Failure::Usage("the typed line is not UTF-8".into())),
        }
    }
}

#[cfg(not(unix))]
mod imp {
    use std::io::{self, Write};

    use zeroize::Zeroizing;

    use super::{MAX_LINE_LEN_BYTES, failed};
    use crate::failure::Failure;

    pub(super) fn ask(question: &str, hidden: bool) -> Result<Zeroizing<String>, Failure> {
        if hidden {
            return rpassword::prompt_password(question).map(Zeroizing::new).map_err(failed);
        }
        let mut out = io::stderr().lock();
        out.write_all(question.as_bytes()).and_then(|()| out.flush()).map_err(failed)?;
        let mut line = Zeroizing::new(String::with_capacity(MAX_LINE_LEN_BYTES));
        io::stdin().read_line(&mut line).map_err(failed)?;
        Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
    }
}
