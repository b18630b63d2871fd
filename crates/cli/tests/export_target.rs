//! The target of an export: a replaced file keeps its mode, and a file in a read-only directory is
//! written in place.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::Tool;

#[test]
fn a_replaced_file_keeps_its_mode() {
    let tool = Tool::new();
    tool.ok(["put", "a", "1"]);
    for mode in [0o600, 0o640, 0o664] {
        let path = tool.path("out.tsv");
        fs::write(&path, "before").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        tool.ok(["export", "-o", "out.tsv"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\t1\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{mode:o}");
    }
}

/// A read-only directory: for root by a read-only mount, because root may write everywhere else.
#[test]
fn a_file_in_a_directory_that_takes_no_other_is_written_in_place() {
    let tool = Tool::new();
    tool.ok(["put", "a", "1"]);
    let (dir, file) = (tool.path("dir"), tool.path("dir/out.tsv"));
    fs::create_dir(&dir).unwrap();
    fs::write(&file, "before, and much longer than what comes").unwrap();
    let run = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|done| done.status.success())
    };
    let (dir, file) = (dir.to_str().unwrap(), file.to_str().unwrap());
    let is_mounted = run("mount", &["--bind", dir, dir])
        && run("mount", &["--bind", file, file])
        && run("mount", &["-o", "remount,ro,bind", dir]);
    if is_mounted {
        assert!(fs::write(tool.path("dir/other"), "").is_err(), "the test's directory should take no new file");
        let exported = tool.run(["export", "-o", "dir/out.tsv"]);
        let content = fs::read_to_string(file);
        let _unmounted = (run("umount", &[file]), run("umount", &[dir]));
        assert_eq!((exported.code, exported.err.as_str()), (Some(0), ""));
        assert_eq!(content.unwrap(), "a\t1\n");
    } else {
        let _unmounted = (run("umount", &[file]), run("umount", &[dir]));
        println!("SKIPPED: nothing can be mounted here");
    }
}
