//! A policy, in TOML and in JSON: no panic; what is accepted reads the same again, narrows itself to no more, and explains.
#![no_main]

use agent_kernel::explain::Checker;
use agent_kernel::{Access, Policy, explain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for read in [Policy::from_toml(text), Policy::from_json(text)] {
        match read {
            Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
            Ok(policy) => {
                assert_eq!(Policy::from_toml(&policy.to_toml()).as_ref(), Ok(&policy));
                let json = serde_json::to_string(&policy).expect("a policy is JSON");
                assert_eq!(Policy::from_json(&json).as_ref(), Ok(&policy));
                let checker = Checker::new(&policy);
                for (verb, object) in [("read", "/etc/passwd"), ("write", "/workspace/x"), ("connect", "a.org:443"), ("call", "bpf")] {
                    let access = Access::parse(verb, object).expect("an access");
                    assert_eq!(explain(&policy, &access).allowed, checker.allows(&access));
                }
                if let Ok(narrowed) = Policy::new().narrowed_by(&policy) {
                    assert!(narrowed.level() >= Policy::new().level());
                }
            }
        }
    }
});
