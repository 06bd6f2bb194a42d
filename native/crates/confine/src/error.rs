//! What can go wrong while privileges are taken away. All of it means: do not go on.

use std::path::PathBuf;

/// A privilege that could not be taken away, or a list that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A file that says something that is not understood.
    #[error("{path}: {problem}")]
    Invalid {
        /// The file, or the name of a list that is part of the program.
        path: PathBuf,
        /// Where and what, and what would be understood.
        problem: String,
    },
    /// A step that the kernel refuses.
    #[error("{step}: {reason}")]
    Refused {
        /// What was to be done.
        step: String,
        /// The system's words.
        reason: String,
    },
}

impl ConfineError {
    pub(crate) fn refused(step: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Refused { step: step.into(), reason: reason.to_string() }
    }

    pub(crate) fn invalid(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), problem: problem.into() }
    }
}
