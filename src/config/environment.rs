//! The environment's variables, which a configuration may read beside its own file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// Environment variables, as the process has them or as a test says.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

/// Why a variable has no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoText {
    /// It is not set.
    Unset,
    /// It is set to something that is not UTF-8.
    NotUtf8,
}

impl Environment {
    /// The variables of this process, as they are now.
    pub fn of_process() -> Self {
        Self { variables: std::env::vars_os().collect() }
    }

    /// These variables and no others.
    pub fn of<K: Into<OsString>, V: Into<OsString>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self { variables: variables.collect() }
    }

    /// A variable's text.
    pub fn text(&self, name: &str) -> Result<&str, NoText> {
        let value = self.variables.get(std::ffi::OsStr::new(name)).ok_or(NoText::Unset)?;
        value.to_str().ok_or(NoText::NotUtf8)
    }

    /// A directory that a variable names; of a list parted by `:` the first. Empty is unset.
    pub fn directory(&self, name: &str) -> Option<PathBuf> {
        let value = self.variables.get(std::ffi::OsStr::new(name))?;
        std::env::split_paths(value).next().filter(|path| !path.as_os_str().is_empty())
    }
}

impl std::fmt::Debug for Environment {
    /// Says nothing of the values: secrets are among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Environment({} variables)", self.variables.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_texts_and_directories() {
        let environment = Environment::of([("A", "x"), ("D", "/one:/two"), ("E", "")]);
        assert_eq!(environment.text("A"), Ok("x"));
        assert_eq!(environment.text("B"), Err(NoText::Unset));
        assert_eq!(environment.directory("D"), Some("/one".into()));
        assert_eq!(environment.directory("E"), None);
        assert!(!format!("{environment:?}").contains('x'));
    }
}
