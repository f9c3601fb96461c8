//! The header is current, and a C program that uses the library compiles, runs, and gets what it should.

use std::path::{Path, PathBuf};
use std::process::Command;

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_header_is_current() {
    let config = cbindgen::Config::from_file(here().join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new().with_config(config).with_src(here().join("src/lib.rs")).generate().unwrap();
    let mut current = Vec::new();
    bindings.write(&mut current);
    let path = here().join("include/agent_kernel.h");
    if std::env::var_os("GPVE_WRITE").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let committed = std::fs::read(&path).unwrap_or_default();
    assert!(committed == current, "run GPVE_WRITE=1 cargo test -p gpve-agent-kernel-c the_header");
}

/// The directory in which cargo puts what it builds for this test.
fn built() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).map(Path::to_owned).unwrap()
}

#[test]
fn a_c_program_runs() {
    let Ok(found) = Command::new("cc").arg("--version").output() else {
        println!("skipped: a_c_program_runs: there is no C compiler (cc)");
        return;
    };
    assert!(found.status.success());
    // The static library and the helper are built by cargo, but not for this test.
    let cargo = |arguments: &[&str]| {
        let done = Command::new(env!("CARGO")).current_dir(here().parent().unwrap()).args(arguments).status().unwrap();
        assert!(done.success(), "cargo {arguments:?}");
    };
    cargo(&["build", "-q", "-p", "gpve-agent-kernel-c", "--lib"]);
    cargo(&["build", "-q", "-p", "gpve-agent-kernel", "--bin", "gpve-agent-launch"]);
    let program = built().join(format!("c-test-{}", std::process::id()));
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(here().join("tests/use.c"))
        .arg(format!("-I{}", here().join("include").display()))
        .arg(built().join("libagent_kernel_c.a"))
        .args(["-lpthread", "-ldl", "-lm", "-lgcc_s"])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let ran = Command::new(&program).arg(built().join("gpve-agent-launch")).output().unwrap();
    std::fs::remove_file(&program).unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{err}");
    assert!(
        out.contains("did you mean memory?") && out.contains("from inside") && out.contains("all is well"),
        "{out}\n{err}"
    );
}
