//! `htkvctl auth` with a key file and a store.

use std::path::PathBuf;

use serde_json::Value;

use super::{Ended, Tool};

pub(crate) const PASSWORD: &str = "violet teapot orbit 9";
pub(crate) const OTHER: &str = "four more random words";

/// The tool with a key file, a store and optional users.
pub(crate) struct Desk {
    pub(crate) tool: Tool,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let desk = Self { tool: Tool::new() };
        desk.ok(&["keyring", "generate"], "");
        desk
    }

    pub(crate) fn with_alice() -> Self {
        let desk = Self::new();
        desk.ok(&["user", "create", "alice"], PASSWORD);
        desk
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.tool.path("keys")
    }

    /// Runs `htkvctl auth` with lines on standard input.
    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> Ended {
        let key_file = self.key_file();
        let front = ["auth", "--key-file", key_file.to_str().unwrap()];
        self.tool.run_with_input([&front[..], arguments].concat(), format!("{input}\n").as_bytes())
    }

    pub(crate) fn ok(&self, arguments: &[&str], input: &str) -> String {
        self.run(arguments, input).ok()
    }

    /// The JSON object of a successful run.
    pub(crate) fn json(&self, arguments: &[&str], input: &str) -> Value {
        let ended = self.run(&[&["--json"], arguments].concat(), input);
        assert_eq!((ended.code, &*ended.err), (Some(0), ""));
        ended.json()
    }

    /// The JSON object of a run with exit code 1.
    pub(crate) fn refused(&self, arguments: &[&str], input: &str) -> Value {
        let ended = self.run(&[&["--json"], arguments].concat(), input);
        assert_eq!(ended.code, Some(1), "{}", ended.err);
        ended.json()
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
