//! Templates, and agents claimed from them.

use super::client::{Client, json, said};
use super::given::{pairs, secrets};
use super::run::Then;
use crate::pb;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

type Done = Result<ExitCode, String>;

#[derive(Subcommand)]
pub enum Template {
    /// Import what agents need, once, and keep some ready
    #[command(
        after_help = "Example:\n  gpve-agentrt template create search --policy agent.toml --import asyncio --import json --pool 8"
    )]
    Create(Create),
    /// List templates
    #[command(after_help = "Example:\n  gpve-agentrt template ls --json")]
    Ls(Ls),
    /// Change how many instances wait to be claimed
    #[command(after_help = "Example:\n  gpve-agentrt template pool search 32")]
    Pool(Pool),
    /// Delete templates that have no agents
    #[command(after_help = "Example:\n  gpve-agentrt template rm search")]
    Rm(Rm),
}

#[derive(Args)]
pub struct Create {
    /// Its name
    name: String,
    /// Policy of its agents, TOML or JSON [default: the default policy]
    #[arg(long)]
    policy: Option<PathBuf>,
    /// The interpreter, inside
    #[arg(long, default_value = "/usr/bin/python3")]
    python: String,
    /// A module; may be given again
    #[arg(long = "import")]
    imports: Vec<String>,
    /// A file of Python that is run after the imports
    #[arg(long)]
    setup: Option<PathBuf>,
    /// Instances that wait to be claimed
    #[arg(long, default_value_t = 0)]
    pool: u32,
    /// Agents that live at once, at most [default: 1000]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    max_agents: u32,
    /// Each instance does its own imports, and shares no memory
    #[arg(long)]
    no_fork: bool,
    /// Variable during the imports (NAME=VALUE); may be given again
    #[arg(long, short)]
    env: Vec<String>,
}

#[derive(Args)]
pub struct Ls {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Pool {
    /// Template
    name: String,
    /// Instances
    size: u32,
}

#[derive(Args)]
pub struct Rm {
    /// Templates
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Args)]
pub struct Claim {
    /// Template
    template: String,
    /// Its id [default: one is made up]
    #[arg(long)]
    id: Option<String>,
    /// Variable (NAME=VALUE); may be given again
    #[arg(long, short)]
    env: Vec<String>,
    /// Label (NAME=VALUE); may be given again
    #[arg(long, short)]
    label: Vec<String>,
    /// A secret (NAME=FILE): a placeholder where the policy names it in network.secrets, else its text behind the
    /// descriptor GPVE_SECRET_NAME_FD; may be given again
    #[arg(long)]
    secret: Vec<String>,
    /// Milliseconds that it lives at most
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    ttl_ms: u64,
    #[command(flatten)]
    then: Then,
    /// What it runs, as after `python3`: FILE, -c CODE or -m MODULE, and arguments
    #[arg(required = true, last = true)]
    argv: Vec<String>,
}

pub async fn template(client: &mut Client, command: Template) -> Done {
    match command {
        Template::Create(args) => create(client, args).await,
        Template::Ls(args) => ls(client, args).await,
        Template::Pool(args) => {
            let request = pb::SetPoolRequest { name: args.name, size: args.size, ..Default::default() };
            client.set_pool(request).await.map_err(said)?;
            Ok(ExitCode::SUCCESS)
        }
        Template::Rm(args) => {
            for name in args.names {
                let request = pb::DeleteTemplateRequest { name, ..Default::default() };
                client.delete_template(request).await.map_err(said)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn text_of(file: &Option<PathBuf>) -> Result<String, String> {
    let Some(file) = file else { return Ok(String::new()) };
    std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))
}

async fn create(client: &mut Client, args: Create) -> Done {
    let spec = pb::TemplateSpec {
        policy: text_of(&args.policy)?,
        python: args.python,
        imports: args.imports,
        setup: text_of(&args.setup)?,
        no_fork: args.no_fork,
        max_agents: args.max_agents,
        pool: args.pool,
        env: pairs("env", &args.env)?,
        ..Default::default()
    };
    let request = pb::CreateTemplateRequest { name: args.name, spec: Some(spec), ..Default::default() };
    let made = client.create_template(request).await.map_err(said)?.into_inner().template.unwrap_or_default();
    println!("{}", made.name);
    Ok(ExitCode::SUCCESS)
}

async fn ls(client: &mut Client, args: Ls) -> Done {
    let templates = client.list_templates(pb::ListTemplatesRequest {}).await.map_err(said)?.into_inner().templates;
    if args.json {
        for template in &templates {
            println!("{}", json(template)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<24} {:>6} {:>6} {:>6}  PROBLEM", "TEMPLATE", "POOL", "READY", "AGENTS");
    for t in templates {
        let pool = t.spec.unwrap_or_default().pool;
        println!("{:<24} {:>6} {:>6} {:>6}  {}", t.name, pool, t.pooled, t.agents, t.problem);
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn claim(client: &mut Client, args: Claim) -> Done {
    let request = pb::ClaimRequest {
        template: args.template,
        id: args.id.unwrap_or_default(),
        argv: args.argv,
        env: pairs("env", &args.env)?,
        labels: pairs("label", &args.label)?,
        ttl_ms: args.ttl_ms,
        secrets: secrets(&args.secret)?,
        ..Default::default()
    };
    let agent = client.claim(request).await.map_err(said)?.into_inner().agent.unwrap_or_default();
    args.then.go_on(client, agent).await
}
