//! What is wrong with a configuration file.

use std::io;
use std::path::PathBuf;

/// Why a configuration file is not taken. Never shows a value: it may be a secret.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum ConfigError {
    #[error("could not read configuration file \"{}\"", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("configuration file \"{}\" is not taken: everybody may write to it", path.display())]
    OpenToAll { path: PathBuf },
    #[error("configuration file \"{}\" is longer than {max_len} bytes", path.display())]
    TooLong { path: PathBuf, max_len: u64 },
    #[error("invalid configuration file \"{}\", line {line}", path.display())]
    Invalid { path: PathBuf, line: usize, source: LineError },
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum LineError {
    /// In the parser's words, which are without the line's text.
    #[error("{0}")]
    Syntax(Box<str>),
    #[error("no command has the name of section [{section}]")]
    UnknownSection { section: String },
    #[error("unknown key \"{key}\": \"pgwake{}\" has no option --{key}", spaced(section))]
    UnknownKey { section: String, key: String, known_as: Option<String> },
    #[error("\"{key}\" stands outside of its command's section")]
    OutsideSection { key: String, section: String },
    #[error("\"{key}\" is said on the command line only")]
    CommandLineOnly { key: String },
    #[error("\"{key}\" is a flag: true or false")]
    Flag { key: String },
    #[error("\"{key}\" takes a value: a string or a number")]
    Value { key: String },
    #[error("\"{key}\" takes one value, not a list")]
    OneValue { key: String },
    #[error("\"{key}\" holds a password, which does not belong into this file")]
    Secret { key: String },
    #[error(
        "\"{key}\" holds the secret connection option \"{keyword}\", which does not belong into this file"
    )]
    SecretInConnectionString { key: String, keyword: &'static str },
}

/// ` standby create` for `standby.create`.
fn spaced(section: &str) -> String {
    section.split('.').filter(|name| !name.is_empty()).map(|name| format!(" {name}")).collect()
}

impl LineError {
    /// What to write instead.
    pub(in super::super) fn hint(&self) -> Option<String> {
        Some(match self {
            LineError::UnknownKey { known_as: Some(name), .. } => format!("It is written {name}."),
            LineError::UnknownKey { section, .. } => {
                format!("The keys are the options of pgwake{} --help, without dashes before them.", spaced(section))
            }
            LineError::UnknownSection { .. } => {
                "Sections are commands: [receive], [standby.create], [slot.list] …".to_owned()
            }
            LineError::OutsideSection { section, .. } => {
                format!("Move it below a line [{section}]; before all sections are general and connection options.")
            }
            LineError::Secret { .. } | LineError::SecretInConnectionString { .. } => {
                "A file like this is copied and shown. Write password-file = \"FILE\", a file that only its owner may read, with the \
                 password on its first line; or password-command = \"COMMAND\", which prints it; or leave it to ~/.pgpass."
                    .to_owned()
            }
            _ => return None,
        })
    }
}
