//! The tool with a person at a terminal.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::Tool;
use rexpect::session::{PtySession, spawn_command};

const PASSWORD: &str = "violet teapot orbit 9";
/// A generous time limit, so that a failing test does not wait forever.
const PATIENCE_MS: u64 = 120_000;

fn shell(tool: &Tool) -> PtySession {
    tool.ok(["auth", "--key-file", "keys", "keyring", "generate"]);
    let mut command = tool.command(["shell"]);
    command.env("HTKV_KEY_FILE", tool.path("keys")).env("TERM", "dumb").env("HOME", tool.path("home"));
    command.stdin(std::process::Stdio::inherit());
    let mut shell = spawn_command(command, Some(PATIENCE_MS)).unwrap();
    shell.exp_string("htkv> ").unwrap();
    shell
}

/// Ctrl-C stops only the prompt, each time; earlier typed input is discarded, and the echo is
/// restored.
#[test]
fn ctrl_c_at_a_password_leaves_the_shell_alive() {
    let tool = Tool::new();
    let mut shell = shell(&tool);
    for round in 0..7 {
        shell.send_line("auth user create alice").unwrap();
        shell.exp_string("password: ").unwrap();
        if round % 2 == 1 {
            shell.send("half a passw").unwrap();
            shell.flush().unwrap();
        }
        shell.send_control('c').unwrap();
        let between = shell.exp_string("interrupted").unwrap();
        assert!(!between.contains("half"), "{between}");
        // Longer than the time until the handler ends a verb that does not react.
        std::thread::sleep(std::time::Duration::from_millis(700));
        shell.exp_string("htkv> ").unwrap();
    }
    shell.send_line("auth user create alice").unwrap();
    let mut shown = shell.exp_string("password: ").unwrap();
    shell.send_line(PASSWORD).unwrap();
    shown += &shell.exp_string("again: ").unwrap();
    shell.send_line(PASSWORD).unwrap();
    shown += &shell.exp_string("created alice").unwrap();
    assert!(!shown.contains(PASSWORD), "{shown}");
    shell.send_line("exit").unwrap();
    shell.exp_eof().unwrap();
}

#[test]
fn irreversible_verbs_ask_first() {
    let tool = Tool::new();
    let mut shell = shell(&tool);
    shell.send_line("auth role define operator read:all").unwrap();
    shell.exp_string("grants").unwrap();
    shell.send_line("auth role remove operator").unwrap();
    shell.exp_string("[y/N] ").unwrap();
    shell.send_line("n").unwrap();
    shell.exp_string("nothing was changed").unwrap();
    shell.send_line("auth role remove operator").unwrap();
    shell.exp_string("[y/N] ").unwrap();
    shell.send_line("y").unwrap();
    shell.exp_string("removed operator").unwrap();
    shell.send_line("exit").unwrap();
    shell.exp_eof().unwrap();
}
