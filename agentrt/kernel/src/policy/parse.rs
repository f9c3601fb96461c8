//! Reading a policy; every error says what, where, and what would be right.

use std::fmt;
use std::path::Path;

use super::{Policy, VERSION};
use crate::error::printable;

/// What is wrong with a policy, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// The key, as in `limits.memory`; empty where the whole document is meant.
    pub key: String,
    /// Line of the document, from 1, where known.
    pub line: Option<usize>,
    /// What is wrong, and what would be right: one sentence.
    pub problem: String,
}

impl PolicyError {
    /// An error at `key`.
    pub fn at(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), line: None, problem: problem.into() }
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy")?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ", {}", printable(&self.key))?;
        }
        write!(f, ": {}", printable(&self.problem))
    }
}

impl std::error::Error for PolicyError {}

/// A document beyond this size is refused before it is parsed.
const LARGEST: usize = 1 << 20;

impl Policy {
    /// Read a policy in TOML.
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        within_size(text)?;
        let deserializer = toml::Deserializer::parse(text).map_err(|error| from_toml_error(text, "", &error))?;
        let policy = serde_path_to_error::deserialize(deserializer)
            .map_err(|error| from_toml_error(text, &path(error.path()), error.inner()))?;
        checked(policy).map_err(|error| with_line_of_key(text, error))
    }

    /// Read a policy in JSON.
    pub fn from_json(text: &str) -> Result<Self, PolicyError> {
        within_size(text)?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let policy = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let message = error.inner().to_string();
            // serde_json appends " at line L column C"; the line stands in a field of its own.
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            PolicyError { key: path(error.path()), line: Some(error.inner().line()), problem: reworded(&message) }
        })?;
        deserializer.end().map_err(|error| PolicyError {
            key: String::new(),
            line: Some(error.line()),
            problem: "something follows the end of the document".into(),
        })?;
        checked(policy)
    }

    /// Read a policy from a file: TOML, or JSON where the name ends in `.json`.
    pub fn from_file(file: &Path) -> Result<Self, PolicyError> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| PolicyError::at("", format!("{} cannot be read: {error}", file.display())))?;
        if file.extension().is_some_and(|e| e == "json") { Self::from_json(&text) } else { Self::from_toml(&text) }
    }

    /// The document as TOML.
    pub fn to_toml(&self) -> String {
        // A policy has only tables, arrays of scalars, and scalars: all of them can be written.
        serde_json::to_value(self).map(|value| toml_of(&value)).unwrap_or_default()
    }
}

fn within_size(text: &str) -> Result<(), PolicyError> {
    if text.len() > LARGEST {
        return Err(PolicyError::at("", format!("{} bytes are too many for a policy: at most {LARGEST}", text.len())));
    }
    Ok(())
}

fn checked(policy: Policy) -> Result<Policy, PolicyError> {
    if policy.version != VERSION {
        let problem = format!("version {} is not known here: write version = {VERSION}", policy.version);
        return Err(PolicyError::at("version", problem));
    }
    policy.check()?;
    Ok(policy)
}

fn path(path: &serde_path_to_error::Path) -> String {
    let text = path.to_string();
    if text == "." { String::new() } else { text.trim_end_matches(".?").to_owned() }
}

fn from_toml_error(text: &str, key: &str, error: &toml::de::Error) -> PolicyError {
    let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
    PolicyError { key: key.to_owned(), line, problem: reworded(error.message()) }
}

/// The line on which the last part of a key is set, where it is plain to find.
fn with_line_of_key(text: &str, mut error: PolicyError) -> PolicyError {
    let last = error.key.rsplit('.').next().unwrap_or_default();
    let last = last.split('[').next().unwrap_or_default();
    let sets =
        |line: &&str| line.trim_start().strip_prefix(last).is_some_and(|rest| rest.trim_start().starts_with('='));
    let mut found = text.lines().enumerate().filter(|(_, line)| !last.is_empty() && sets(line));
    if let (Some((at, _)), None) = (found.next(), found.next()) {
        error.line = Some(at + 1);
    }
    error
}

/// serde's sentence with what it lacks: the nearest known key.
fn reworded(message: &str) -> String {
    let message = message.trim().replace('\n', "; ");
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let wrong = quoted.next().unwrap_or_default().to_owned();
        let known: Vec<&str> = quoted.collect();
        let kind = if message.starts_with("unknown field") { "key" } else { "value" };
        let nearest = nearest(&wrong, &known).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        return format!("unknown {kind} {wrong:?}{nearest} (known: {})", known.join(", "));
    }
    if message.starts_with("missing field") {
        let name = quoted.next().unwrap_or_default();
        let right = if name == "version" { format!(": write version = {VERSION}") } else { String::new() };
        return format!("{name:?} is missing{right}");
    }
    message
}

/// The name of `known` that is nearest to `wrong`, if it is near at all.
pub(crate) fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let far = wrong.len().max(3) / 2 + 1;
    known.iter().map(|name| (edits(wrong, name), *name)).filter(|(d, _)| *d < far).min().map(|(_, name)| name)
}

fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (corner + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

fn toml_of(value: &serde_json::Value) -> String {
    let mut out = String::new();
    let Some(table) = value.as_object() else {
        return out;
    };
    // Scalars first: after the first header every key belongs to a table.
    for (key, value) in table.iter().filter(|(_, value)| !value.is_object()) {
        out.push_str(&format!("{key} = {value}\n"));
    }
    for (key, value) in table.iter() {
        let Some(inner) = value.as_object() else {
            continue;
        };
        out.push_str(&format!("\n[{key}]\n"));
        for (key, value) in inner {
            out.push_str(&format!("{key} = {}\n", in_a_line(value)));
        }
    }
    out
}

/// A value of a table; a table in it stands in one line.
fn in_a_line(value: &serde_json::Value) -> String {
    let Some(table) = value.as_object() else {
        return value.to_string();
    };
    let pairs: Vec<String> = table.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{{ {} }}", pairs.join(", "))
}
