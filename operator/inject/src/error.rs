//! Why a template cannot have a sidecar.

use std::fmt;

/// One or more reasons, each with the path of the field and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InjectError {
    /// Never empty.
    pub problems: Vec<InjectProblem>,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectProblem {
    /// Path of the field from the template, such as `spec.containers[0].name`.
    pub path: String,
    /// What is wrong with it, and what to do.
    pub message: String,
}

// === impl InjectError ===

impl fmt::Display for InjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, InjectProblem { path, message }) in self.problems.iter().enumerate() {
            let gap = if index == 0 { "" } else { "; " };
            write!(f, "{gap}{path}: {message}")?;
        }
        Ok(())
    }
}
