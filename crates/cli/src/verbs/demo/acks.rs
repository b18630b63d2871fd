//! The parent's side: starts the writer, reads its acknowledgements, and kills it.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::interrupt;
use crate::units;

/// Maximum wait for the first acknowledgement, independent of the writer's time.
const PATIENCE: Duration = Duration::from_secs(30);

/// The acknowledgements of the writer before its end.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    /// The number of the last acknowledged put; all earlier ones are acknowledged too.
    pub(crate) last: u64,
    /// From the first acknowledgement to the kill.
    pub(crate) elapsed: Duration,
}

impl Acknowledged {
    pub(crate) fn per_second(&self) -> u64 {
        units::per_second(self.last, self.elapsed)
    }
}

/// A child process that does not outlive its handle.
struct Writer {
    child: Child,
}

impl Writer {
    fn start(dir: &Path) -> Result<(Self, BufReader<ChildStdout>), Failure> {
        let refused = || Failure::file("start the writer process");
        let tool = env::current_exe().map_err(refused())?;
        let mut command = Command::new(tool);
        command.arg("--data-dir").arg(dir).arg("demo-writer").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(refused())?;
        let pipe = child.stdout.take().ok_or_else(|| Failure::Usage("the writer process has no pipe".into()))?;
        Ok((Self { child }, BufReader::with_capacity(64 * 1024, pipe)))
    }

    /// Sends SIGKILL, and waits for the end of the process.
    fn kill(&mut self) -> Result<(), Failure> {
        let refused = || Failure::file("kill the writer process");
        if let Some(status) = self.child.try_wait().map_err(refused())? {
            return Err(Failure::Usage(format!("the writer process ended before the kill: {status}")));
        }
        self.child.kill().map_err(refused())?;
        self.child.wait().map_err(refused())?;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The process has ended already, unless an error happened before the kill.
        let _dead = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Runs a writer on the store at `dir` for a time, kills it, and returns its acknowledgements.
pub(crate) fn write_and_kill(dir: &Path, write_for: Duration) -> Result<Acknowledged, Failure> {
    let (mut writer, mut pipe) = Writer::start(dir)?;
    let mut line = String::new();
    let mut last = 0;
    let spawned = Instant::now();
    let mut first = None;
    loop {
        let now = Instant::now();
        if first.is_some_and(|first| now - first >= write_for) || now - spawned >= PATIENCE.max(2 * write_for) {
            break;
        }
        match next(&mut pipe, &mut line)? {
            Some(number) => last = follow(last, number)?,
            // The writer has ended; the kill returns its status.
            None => break,
        }
        first.get_or_insert(now);
        interrupt::check()?;
    }
    let elapsed = first.map_or(Duration::ZERO, |first| first.elapsed());
    writer.kill()?;
    // The rest of the pipe was acknowledged before the kill.
    while let Some(number) = next(&mut pipe, &mut line)? {
        last = follow(last, number)?;
    }
    Ok(Acknowledged { last, elapsed })
}

/// The next acknowledgement; `None` at the end. An incomplete line is not an acknowledgement.
fn next(pipe: &mut impl BufRead, line: &mut String) -> Result<Option<u64>, Failure> {
    line.clear();
    pipe.read_line(line).map_err(Failure::file("read from the writer process"))?;
    let Some(number) = line.strip_suffix('\n') else { return Ok(None) };
    number.parse().map(Some).map_err(|_| Failure::Usage(format!("the writer process said {number:?}")))
}

fn follow(last: u64, number: u64) -> Result<u64, Failure> {
    if number == last + 1 {
        return Ok(number);
    }
    Err(Failure::Usage(format!("the writer process acknowledged put {number} after {last}")))
}

#[cfg(test)]
mod tests {
    use super::{follow, next};

    #[test]
    fn half_a_line_acknowledges_nothing() {
        let (mut pipe, mut line) = (&b"1\n2\n3"[..], String::new());
        assert_eq!(next(&mut pipe, &mut line).unwrap(), Some(1));
        assert_eq!(next(&mut pipe, &mut line).unwrap(), Some(2));
        assert_eq!(next(&mut pipe, &mut line).unwrap(), None);
        assert!(next(&mut &b"x\n"[..], &mut line).is_err());
    }

    #[test]
    fn acknowledgements_leave_nothing_out() {
        assert_eq!(follow(6, 7).unwrap(), 7);
        assert!(follow(6, 8).is_err());
        assert!(follow(6, 6).is_err());
    }
}
