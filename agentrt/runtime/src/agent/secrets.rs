//! Secrets that an agent has as placeholders: checked, and kept where a daemon that dies does not take them along.
//!
//! Placeholders stand in the agent's record and environment. The texts are in the memory of the daemon and of the egress
//! proxy, and in sealed memory that the agent's spawner holds without looking into it; they are on no disk.

use super::Agent;
use crate::egress::secret::Secret;
use crate::fault::{Fault, failed_in, invalid, precondition};
use crate::random;
use crate::spawner::client::CallError;
use crate::spawner::protocol::{Answer, Ask};
use agent_kernel::plan::EgressPlan;
use rustix::fs::{MemfdFlags, memfd_create};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// By name.
pub type Texts = BTreeMap<String, String>;

/// Shorter ones could be met by chance, in answers in which they are looked for.
const SHORTEST: usize = 16;
const LONGEST: usize = 4096;
/// All texts of an agent together: they and their placeholders go to the proxy in one message.
const MOST_BYTES: usize = 32 << 10;

/// The secrets that a policy names, out of those that were given; each has to be there.
pub fn check(given: &Texts, plan: &EgressPlan, env: &BTreeMap<String, String>) -> Result<Texts, Fault> {
    let mut texts = Texts::new();
    for name in plan.secrets.keys() {
        let fail = |problem: String| Err(invalid(format!("secrets: {name}: {problem}")));
        let Some(text) = given.get(name) else {
            return fail("the policy names it (network.secrets), and it is not given".into());
        };
        if !(SHORTEST..=LONGEST).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return fail(format!("it has to have {SHORTEST} to {LONGEST} visible ASCII characters"));
        }
        if env.contains_key(name) {
            return fail("env has a variable of that name, which is the placeholder's".into());
        }
        texts.insert(name.clone(), text.clone());
    }
    if texts.values().map(String::len).sum::<usize>() > MOST_BYTES {
        return Err(invalid(format!("secrets: more than {MOST_BYTES} bytes together")));
    }
    Ok(texts)
}

/// A new placeholder for each, as long as the text.
pub fn placeholders(texts: &Texts) -> BTreeMap<String, String> {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let letter = || char::from(LETTERS[usize::from(random::u16() % 32)]);
    let of = |text: &String| "gpve-".chars().chain(std::iter::repeat_with(letter)).take(text.len()).collect();
    texts.iter().map(|(name, text)| (name.clone(), of(text))).collect()
}

fn seal(texts: &Texts) -> io::Result<OwnedFd> {
    let memory = memfd_create("gpve-secrets", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(&serde_json::to_vec(texts)?)?;
    agent_kernel::sys::seal(file.as_raw_fd())?;
    Ok(file.into())
}

fn unseal(memory: OwnedFd) -> io::Result<Texts> {
    let file = File::from(memory);
    let mut raw = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut raw, 0)?;
    Ok(serde_json::from_slice(&raw)?)
}

impl Agent {
    /// Has the spawner keep the texts: when they are given, and at each start, since it may be another spawner.
    pub async fn keep_secrets(&self) -> Result<(), Fault> {
        if self.secrets.is_empty() {
            return Ok(());
        }
        let id = &self.record.id;
        let memory = seal(&self.secrets).map_err(|e| failed_in(id, &format!("its secrets cannot be kept: {e}")))?;
        let ask = Ask::Keep { agent: self.sandbox_name().to_owned() };
        match self.spawner().call(ask, vec![memory], None).await {
            Ok(_) => Ok(()),
            Err(CallError::Refused(sentence)) => Err(failed_in(id, &sentence)),
            Err(CallError::Lost) => Err(failed_in(id, "the spawner died; ask again")),
        }
    }

    /// A new daemon asks for what the one before had kept.
    pub(super) async fn take_up_secrets(&mut self) {
        if self.record.placeholders.is_empty() {
            return;
        }
        let ask = Ask::Kept { agent: self.sandbox_name().to_owned() };
        let kept = match self.spawner().call(ask, Vec::new(), None).await {
            Ok((Answer::Descriptor, mut fds)) if fds.len() == 1 => unseal(fds.remove(0)),
            _ => Err(io::Error::other("its spawner has died too")),
        };
        match kept {
            Ok(texts) => self.secrets = texts,
            Err(e) => eprintln!("agent {}: its secrets are lost: {e}", self.record.id),
        }
    }

    /// Refuses a start that could only disappoint.
    pub(super) fn check_secrets(&self) -> Result<(), Fault> {
        if self.record.placeholders.keys().any(|name| !self.secrets.contains_key(name)) {
            let id = &self.record.id;
            return Err(precondition(format!(
                "agent {id}: its secrets were lost with the processes that kept them; create it again"
            )));
        }
        Ok(())
    }

    /// For the egress proxy.
    pub(super) fn proxied_secrets(&self, plan: &EgressPlan) -> Vec<Secret> {
        let of = |(name, origins): (&String, &std::collections::BTreeSet<String>)| {
            Some(Secret {
                name: name.clone(),
                placeholder: self.record.placeholders.get(name)?.clone(),
                text: self.secrets.get(name).cloned(),
                origins: origins.iter().cloned().collect(),
            })
        };
        plan.secrets.iter().filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_secret_of_the_policy_is_given_whole_and_has_a_placeholder_of_its_length() {
        let plan =
            EgressPlan { secrets: [("KEY".into(), ["https://a.org:443".into()].into())].into(), ..Default::default() };
        let given = |text: &str| Texts::from([("KEY".to_owned(), text.to_owned()), ("OTHER".to_owned(), "x".into())]);
        let texts = check(&given("0123456789abcdef"), &plan, &BTreeMap::new()).expect("fine");
        assert_eq!(texts.keys().collect::<Vec<_>>(), ["KEY"]);
        let made = placeholders(&texts);
        assert!(made["KEY"].len() == 16 && made["KEY"].starts_with("gpve-"));
        assert_ne!(made, placeholders(&texts));
        assert_eq!(unseal(seal(&texts).expect("memory")).expect("read"), texts);
        for (given, env, words) in [
            (Texts::new(), BTreeMap::new(), "not given"),
            (given("short"), BTreeMap::new(), "16 to 4096"),
            (given("0123456789abcde\n"), BTreeMap::new(), "visible ASCII"),
            (given("0123456789abcdef"), [("KEY".to_owned(), String::new())].into(), "env has"),
        ] {
            let said = check(&given, &plan, &env).expect_err(words).message;
            assert!(said.contains(words) && !said.contains("0123"), "{said}");
        }
    }
}
