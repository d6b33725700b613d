//! What probes and hooks of the app's container show to this sidecar. Whoever reads the pod knows it;
//! it keeps other pods from pretending to be kubelet.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest token, in bytes.
const LONGEST: usize = 128;

/// A secret word. It is never printed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

// === impl Token ===

impl Token {
    /// Of this text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Whether that is the token. How long it takes tells nothing about it.
    pub fn is(&self, shown: &[u8]) -> bool {
        // Hashes of equal length, which are compared in constant time.
        blake3::hash(self.0.as_bytes()) == blake3::hash(shown)
    }

    /// It can stand in a header and in a variable.
    pub(super) fn is_usable(&self) -> bool {
        let plain = |it: u8| it.is_ascii_alphanumeric() || b"-._".contains(&it);
        (1..=LONGEST).contains(&self.0.len()) && self.0.bytes().all(plain)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}
