//! Tokens: what stands for them is kept, never they themselves.

use crate::model::check_name;
use crate::registry::{Durable, Registry};
use crate::wire::Scope;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq as _;

/// Where they are kept among the registry's values.
const NAMESPACE: &str = "tokens";
/// How a token begins, so that one that leaked is recognised.
const PREFIX: &str = "harness_";
/// How many there may be.
const MOST: usize = 1_000;
/// The time of the last use is written at most so often.
const USED: Duration = Duration::from_secs(60);

/// Text that opens doors: not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for where it must be shown or sent.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Why there is no such token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// What is kept can't be read.
    #[error("can't understand what is kept of the token {name:?}")]
    Decode {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The name can't be one.
    #[error("{problem}")]
    Name {
        /// Why not.
        problem: String,
    },
    /// There is one of that name.
    #[error("there is a token {name:?} already: revoke it first, or take another name")]
    Exists {
        /// The name.
        name: String,
    },
    /// There are as many as may be.
    #[error("there are {MOST} tokens, no more are made: revoke some")]
    TooMany,
}

/// What a token is to be.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its name, as instances are named.
    pub name: String,
    /// What its bearer may do.
    pub scope: Scope,
    /// When it ends; `None`: when it is revoked.
    pub expires: Option<Timestamp>,
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Its name.
    pub name: String,
    /// What its bearer may do.
    pub scope: Scope,
    /// Since when it is.
    pub created: Timestamp,
    /// When it ends; `None`: when it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When it was last used, give or take a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

/// A token as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    schema: u32,
    /// SHA-256 of the token in hexadecimal digits: 256 random bits need no slow hash.
    hash: String,
    token: TokenInfo,
}

/// All tokens of a registry. A cheap handle; all of them are the same tokens.
#[derive(Clone)]
pub struct Tokens {
    registry: Registry,
    known: Arc<Mutex<BTreeMap<String, Known>>>,
}

struct Known {
    kept: Kept,
    /// Dropped with the token: ends the connections that it opened.
    revoked: (async_channel::Sender<Infallible>, async_channel::Receiver<Infallible>),
}

impl Known {
    fn new(kept: Kept) -> Self {
        Self { kept, revoked: async_channel::bounded(1) }
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.revoked.0.close();
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("count", &self.lock().len()).finish_non_exhaustive()
    }
}

/// A token that opened a connection.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) name: Arc<str>,
    pub(crate) scope: Scope,
    /// When the connection ends at the latest.
    pub(crate) expires: Option<Timestamp>,
    /// Closed when it is revoked.
    pub(crate) revoked: async_channel::Receiver<Infallible>,
}

/// Why a token opens nothing. What the client is told is the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("the token is unknown")]
    Unknown,
    #[error("the token {0:?} has expired")]
    Expired(String),
}

impl Tokens {
    /// The tokens that are kept in the registry.
    ///
    /// # Errors
    ///
    /// One of them can't be read.
    pub fn open(registry: Registry) -> Result<Self, TokenError> {
        let mut known = BTreeMap::new();
        for (name, value) in registry.kv_list(NAMESPACE) {
            let kept = serde_json::from_slice(&value)
                .map_err(|source| TokenError::Decode { name: name.clone(), source })?;
            known.insert(name, Known::new(kept));
        }
        Ok(Self { registry, known: Arc::new(Mutex::new(known)) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a token out of 32 random bytes. It is in the answer, and never again; it is valid at once, and kept once that
    /// resolves.
    ///
    /// # Errors
    ///
    /// The name can't be one or is taken, or there are too many.
    pub fn create(&self, new: NewToken, random: [u8; 32]) -> Result<(Secret, Durable), TokenError> {
        check_name("name", &new.name).map_err(|problem| TokenError::Name { problem: problem.to_string() })?;
        let mut known = self.lock();
        if known.contains_key(&new.name) {
            return Err(TokenError::Exists { name: new.name });
        }
        if known.len() >= MOST {
            return Err(TokenError::TooMany);
        }
        let secret = Secret(format!("{PREFIX}{}", hex(&random)));
        let NewToken { name, scope, expires } = new;
        let created = self.registry.now();
        let token = TokenInfo { name: name.clone(), scope, created, expires, last_used: None };
        let kept = Kept { schema: 1, hash: hash(secret.reveal()), token };
        let durable = self.keep(&kept);
        known.insert(name, Known::new(kept));
        Ok((secret, durable))
    }

    fn keep(&self, kept: &Kept) -> Durable {
        // can't fail: every part is text, number or time
        let bytes = serde_json::to_vec(kept).unwrap_or_default();
        self.registry.kv_put(NAMESPACE, &kept.token.name, &bytes)
    }

    /// All tokens, by name; also those that have expired.
    pub fn list(&self) -> Vec<TokenInfo> {
        self.lock().values().map(|known| known.kept.token.clone()).collect()
    }

    /// Forgets a token and ends the connections that it opened; `None` if there is none of that name.
    pub fn revoke(&self, name: &str) -> Option<Durable> {
        let mut known = self.lock();
        known.remove(name)?;
        Some(self.registry.kv_delete(NAMESPACE, name))
    }

    /// What a token opens.
    pub(crate) fn admit(&self, token: &str) -> Result<Pass, Denied> {
        let now = self.registry.now();
        let presented = hash(token);
        let mut known = self.lock();
        // All are compared, each in constant time: nothing is learned from how long it takes.
        let mut found = None;
        for known in known.values_mut() {
            if bool::from(known.kept.hash.as_bytes().ct_eq(presented.as_bytes())) {
                found = Some(known);
            }
        }
        let Some(Known { kept, revoked }) = found else { return Err(Denied::Unknown) };
        let token = &mut kept.token;
        if token.expires.is_some_and(|end| end <= now) {
            return Err(Denied::Expired(token.name.clone()));
        }
        let pass = Pass {
            name: token.name.as_str().into(),
            scope: token.scope,
            expires: token.expires,
            revoked: revoked.1.clone(),
        };
        if token.last_used.is_none_or(|last| now.duration_since(last).unsigned_abs() >= USED) {
            token.last_used = Some(now);
            // best effort: it says when, not whether
            self.keep(kept).forget();
        }
        Ok(pass)
    }
}

fn hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Options;
    use crate::store::MemoryStore;
    use futures_lite::future::block_on;
    use jiff::ToSpan as _;

    fn registry(store: &Arc<MemoryStore>) -> Registry {
        let options = Options { clock: || Timestamp::UNIX_EPOCH, ..Options::default() };
        block_on(Registry::open(Arc::clone(store) as _, options)).unwrap()
    }

    fn new(name: &str, expires: Option<Timestamp>) -> NewToken {
        NewToken { name: name.into(), scope: Scope::Operate, expires }
    }

    #[test]
    fn a_token_opens_until_it_expires_or_is_revoked_and_only_its_hash_is_kept() {
        let store = Arc::new(MemoryStore::new());
        let tokens = Tokens::open(registry(&store)).unwrap();
        let (secret, _) = tokens.create(new("ci", None), [7; 32]).unwrap();
        let (ended, _) = tokens.create(new("old", Some(Timestamp::UNIX_EPOCH)), [8; 32]).unwrap();
        let soon = Some(Timestamp::UNIX_EPOCH + 1.second());
        let (other, durable) = tokens.create(new("soon", soon), [9; 32]).unwrap();
        block_on(durable).unwrap();
        assert_eq!(secret.reveal(), format!("harness_{}", "07".repeat(32)));
        assert!(!format!("{secret:?} {tokens:?}").contains("0707"));
        for again in [tokens.clone(), Tokens::open(registry(&store)).unwrap()] {
            let pass = again.admit(secret.reveal()).unwrap();
            assert_eq!((&*pass.name, pass.scope, pass.expires), ("ci", Scope::Operate, None));
            assert_eq!(again.admit(other.reveal()).unwrap().expires, soon);
            assert_eq!(again.admit(ended.reveal()).unwrap_err(), Denied::Expired("old".into()));
            for wrong in ["", "harness_", &"07".repeat(32), &secret.reveal()[..71]] {
                assert_eq!(again.admit(wrong).unwrap_err(), Denied::Unknown, "{wrong}");
            }
        }
        let kept = tokens.registry.kv_list(NAMESPACE);
        let kept: String = kept.iter().map(|(_, value)| String::from_utf8_lossy(value)).collect();
        assert!(!kept.contains("0707") && kept.contains("ci"), "{kept}");

        let pass = tokens.admit(secret.reveal()).unwrap();
        assert!(tokens.revoke("nobody").is_none());
        assert!(tokens.revoke("ci").is_some());
        assert!(block_on(pass.revoked.recv()).is_err(), "its connections are told");
        assert_eq!(tokens.admit(secret.reveal()).unwrap_err(), Denied::Unknown);
        let names: Vec<String> = tokens.list().into_iter().map(|token| token.name).collect();
        assert_eq!(names, ["old", "soon"]);
    }

    #[test]
    fn names_are_names_and_given_once() {
        let tokens = Tokens::open(registry(&Arc::new(MemoryStore::new()))).unwrap();
        tokens.create(new("a", None), [1; 32]).unwrap();
        assert!(matches!(tokens.create(new("a", None), [2; 32]), Err(TokenError::Exists { .. })));
        for name in ["", "../x", "a b"] {
            assert!(
                matches!(tokens.create(new(name, None), [3; 32]), Err(TokenError::Name { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn the_sample_of_what_is_kept_is_read_and_written_as_it_is() {
        let sample = include_str!("../../samples/token-v1.json").trim_end();
        let kept: Kept = serde_json::from_str(sample).unwrap();
        assert_eq!(serde_json::to_string(&kept).unwrap(), sample);
    }
}
