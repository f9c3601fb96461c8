//! One agent, to the proxy: its terms, and what it has used and paid for.

use super::outward::Outward;
use super::{Terms, Usage};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Denied destinations that are told apart.
const NAMES: usize = 64;

pub struct Agent {
    pub(super) id: String,
    pub(super) terms: Terms,
    pub(super) outward: Arc<Outward>,
    pub(super) usage: Mutex<Usage>,
    /// When what was moved so far is paid for.
    pub(super) paid: Mutex<Instant>,
}

impl Agent {
    pub fn deny(&self, what: &str) {
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let known = usage.denied.contains_key(what) || usage.denied.len() < NAMES;
        let count = usage.denied.entry(if known { what.to_owned() } else { "(others)".into() }).or_default();
        *count += 1;
        if *count == 1 {
            eprintln!("egress of agent {}: denied: {what}", self.id);
        }
    }

    pub async fn sent(&self, bytes: usize) {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner).bytes_out += bytes as u64;
        self.pay(bytes).await;
    }

    pub async fn fetched(&self, bytes: usize) {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner).bytes_in += bytes as u64;
        self.pay(bytes).await;
    }

    /// Waits as long as the bytes are worth.
    async fn pay(&self, bytes: usize) {
        let rate = self.terms.limits.bytes_per_s;
        if rate == 0 || bytes == 0 {
            return;
        }
        let price = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let until = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            *paid = (*paid).max(Instant::now()) + price;
            *paid
        };
        tokio::time::sleep_until(until).await;
    }
}
