//! Enumerations of the proto as words in JSON: "running", not 3.

macro_rules! words {
    ($module:ident, $enum:ty, $prefix:literal) => {
        pub mod $module {
            use serde::{Deserialize, Deserializer, Serializer};

            pub fn word(value: i32) -> String {
                let name = <$enum>::try_from(value).map_or("UNSPECIFIED", |v| v.as_str_name());
                name.strip_prefix($prefix).unwrap_or(name).to_ascii_lowercase().replace('_', "-")
            }

            pub fn serialize<S: Serializer>(value: &i32, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&word(*value))
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<i32, D::Error> {
                let text = String::deserialize(d)?;
                let name = format!("{}{}", $prefix, text.to_ascii_uppercase().replace('-', "_"));
                <$enum>::from_str_name(&name)
                    .map(|v| v as i32)
                    .ok_or_else(|| serde::de::Error::custom(format!("\"{text}\" is not a known word here")))
            }
        }
    };
}

words!(state, crate::pb::State, "STATE_");
words!(reason, crate::pb::ExitReason, "EXIT_REASON_");
words!(when, crate::pb::restart_policy::When, "WHEN_");
words!(ttl_action, crate::pb::TtlAction, "TTL_ACTION_");
