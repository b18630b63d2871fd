//! A store without the mark † in the table loses no returned write when its process is killed.
//! Checks every compiled store.

use std::process::Command;

#[test]
fn stores_lose_by_a_kill_what_they_are_said_to_lose() {
    let dir = std::env::temp_dir().join(format!("peers-kill-{}", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_hightower-peers"))
        .args(["--kill-check", "--dir"])
        .arg(&dir)
        .output()
        .expect("the program that cargo has built");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("hightower: 0 of "), "{text}");
    std::fs::remove_dir_all(&dir).expect("the directory that the program made");
}
