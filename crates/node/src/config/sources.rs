use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use inn_units::nearest;

use super::{KEYS, SYSTEM_FILE};

/// What the command line says of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigSource {
    /// A file that must be there, in place of [`SYSTEM_FILE`].
    pub file: Option<PathBuf>,
    /// Keys and values given as flags.
    pub flags: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{origin} has the unknown key `{key}`{}", suggest(key))]
    UnknownKey { key: String, origin: Origin },
    #[error("{key} = `{value}` in {origin}: {why}")]
    Value { key: String, value: String, origin: Origin, why: String },
    #[error("cannot read the configuration {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration {} is not TOML: {why}", path.display())]
    Syntax { path: PathBuf, why: String },
    #[error("{0}")]
    NoPlace(String),
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Flag,
    Variable(String),
    File(PathBuf),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("the flags"),
            Self::Variable(name) => write!(f, "the environment ({name})"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("the defaults"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// The one setting that counts for each key that has any.
pub(super) fn gather(
    source: &ConfigSource,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<BTreeMap<&'static str, Setting>, ConfigError> {
    let mut settings = BTreeMap::new();
    let (path, optional) = match &source.file {
        Some(path) => (path.clone(), false),
        None => (PathBuf::from(SYSTEM_FILE), true),
    };
    for (key, text) in read_file(&path, optional)? {
        let origin = Origin::File(path.clone());
        settings.insert(known(&key, &origin)?, Setting { text, origin });
    }
    for key in KEYS {
        let name = key.variable();
        if let Some(text) = env(&name).filter(|text| !text.is_empty()) {
            settings.insert(key.name, Setting { text, origin: Origin::Variable(name) });
        }
    }
    for (key, text) in &source.flags {
        let key = known(key, &Origin::Flag)?;
        settings.insert(key, Setting { text: text.clone(), origin: Origin::Flag });
    }
    Ok(settings)
}

fn known(key: &str, origin: &Origin) -> Result<&'static str, ConfigError> {
    KEYS.iter()
        .map(|key| key.name)
        .find(|name| *name == key)
        .ok_or_else(|| ConfigError::UnknownKey { key: key.to_owned(), origin: origin.clone() })
}

fn suggest(key: &str) -> String {
    match nearest(key, KEYS.iter().map(|key| key.name)) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => {
            let all: Vec<_> = KEYS.iter().map(|key| key.name).collect();
            format!("; there are {}", all.join(", "))
        }
    }
}

fn read_file(path: &Path, optional: bool) -> Result<Vec<(String, String)>, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        // An ordinary user need not be able to read the system's file.
        Err(e)
            if optional
                && matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) =>
        {
            return Ok(Vec::new());
        }
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        why: e.message().to_owned(),
    })?;
    let mut out = Vec::new();
    flatten("", &table, path, &mut out)?;
    Ok(out)
}

fn flatten(
    prefix: &str,
    table: &toml::Table,
    path: &Path,
    out: &mut Vec<(String, String)>,
) -> Result<(), ConfigError> {
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(n) => n.to_string(),
            toml::Value::Float(n) => n.to_string(),
            toml::Value::Boolean(b) => b.to_string(),
            toml::Value::Table(inner) => {
                flatten(&key, inner, path, out)?;
                continue;
            }
            other => {
                return Err(ConfigError::Value {
                    key,
                    value: other.to_string(),
                    origin: Origin::File(path.to_owned()),
                    why: "is neither text nor a whole number nor true or false".to_owned(),
                });
            }
        };
        out.push((key, text));
    }
    Ok(())
}
