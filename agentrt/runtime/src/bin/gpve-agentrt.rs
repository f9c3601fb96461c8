//! `gpve-agentrt`: the daemon, and the command line for people.

fn main() -> std::process::ExitCode {
    agentrt::cli::main()
}
