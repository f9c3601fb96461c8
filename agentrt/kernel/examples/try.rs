//! Start a command under a policy: `try POLICY.toml COMMAND...`.
use agent_kernel::{Cgroup, Host, Identity, Launch, Policy, Prepared, compile, launch};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let host = Host::probe();
    let policy = if arguments[1] == "-" { Policy::new() } else { Policy::from_file(Path::new(&arguments[1]))? };
    let plan = compile(&policy, &host)?;
    let prepared = Prepared::new(&plan, &host, None)?;
    let identity = Identity::new(700_000, 65536, "agent-1", "0123456789abcdef0123456789abcdef");
    let cgroup = if plan.cgroup.controllers().is_empty() {
        None
    } else {
        Some(Cgroup::create(&host.cgroups, Path::new(&format!("gpve-try/{}", std::process::id())), &plan.cgroup)?)
    };
    let command: Vec<&str> = arguments[2..].iter().map(String::as_str).collect();
    let mut it = Launch::new(&prepared, &identity, &command);
    it.stdio = [Some(0), Some(1), Some(2)];
    it.cgroup = cgroup.as_ref();
    let started = launch(it);
    let code = started.as_ref().map(|l| {
        eprintln!("{}", serde_json::to_string(&l.applied).unwrap());
        l.wait()
    });
    if let Some(c) = cgroup {
        c.kill()?;
        eprintln!("{:?}", c.stats()?);
        c.remove()?;
    }
    match code {
        Ok(code) => {
            eprintln!("exit {code:?}");
            Ok(())
        }
        Err(e) => Err(e.to_string().into()),
    }
}
