//! Runs the tool like a user, on a separate store.

#![allow(dead_code, reason = "no test file uses all of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

pub(crate) mod desk;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A directory with a store, and the tool.
pub(crate) struct Tool {
    dir: tempfile::TempDir,
}

/// The result of a run.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Tool {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_htkvctl"));
        command.env("HTKV_DATA_DIR", self.store()).current_dir(self.dir.path()).args(arguments).stdin(Stdio::null());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ended {
        Ended::of(self.command(arguments).output().unwrap())
    }

    pub(crate) fn run_with_input<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Ended {
        Ended::of_input(self.command(arguments), input)
    }

    /// Runs it, expects success, and returns its output.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        self.run(arguments).ok()
    }
}

impl Ended {
    /// Runs a command with this on standard input.
    pub(crate) fn of_input(mut command: Command, input: &[u8]) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A tool that stops early closes its end of the pipe.
        let _closed = child.stdin.take().unwrap().write_all(input);
        Self::of(child.wait_with_output().unwrap())
    }

    fn of(output: Output) -> Self {
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(!err.contains("panicked"), "{err}");
        Self { code: output.status.code(), out: output.stdout, err }
    }

    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, &*self.err), (Some(0), ""), "{}", String::from_utf8_lossy(&self.out));
        String::from_utf8(self.out).unwrap()
    }

    /// Expects an exit code and a text on standard error.
    pub(crate) fn fails(self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{}", self.err);
        assert!(self.err.contains(words), "{:?} should contain {words:?}", self.err);
    }

    /// The one JSON object on standard output.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.out)
            .unwrap_or_else(|bad| panic!("{bad}: {:?}", String::from_utf8_lossy(&self.out)))
    }
}

/// Waits until the tool has installed its handler of Ctrl-C: the time of its start depends on the
/// load of the machine.
#[cfg(target_os = "linux")]
pub(crate) fn wait_until_it_listens(child: &std::process::Child) {
    const INTERRUPT: u64 = 1 << (2 - 1);
    let caught = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
        u64::from_str_radix(&mask, 16).unwrap() & INTERRUPT != 0
    };
    while !caught() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Other systems do not show the handler: waits for a fixed time.
#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) fn wait_until_it_listens(_: &std::process::Child) {
    std::thread::sleep(std::time::Duration::from_secs(2));
}

/// Lines in the order of `LC_ALL=C sort`.
pub(crate) fn sorted(text: &[u8]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines.concat()
}

/// Unordered records with every kind of plain text, and distinct keys.
pub(crate) fn generated(records: u32) -> Vec<u8> {
    let mut text = Vec::new();
    for number in 0..records {
        let mixed = number.wrapping_mul(2_654_435_761);
        let line = format!(
            "pkg/{:02}/{mixed:08x}\t{{\"n\":{number},\"quote\":\"\\\"a\\\\b\\\" Málaga\",\"pad\":\"{:060}\"}}\n",
            mixed % 50,
            mixed
        );
        text.extend_from_slice(line.as_bytes());
    }
    text
}

/// The files of a directory, with their contents.
pub(crate) fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}
