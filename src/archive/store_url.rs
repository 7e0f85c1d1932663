//! Where an archive is: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `file:///path`.
//!
//! Credentials come from the provider's environment variables, files that those name, and the machine's role, as `object_store`
//! reads them: for Google and Azure also what their own programs have left, for Amazon no file in `~/.aws`. Behind a question mark
//! stand options of the store (`endpoint`, `region` …), by the names that the provider's variables have in lower case. A secret in the address would be seen by everybody who may list processes,
//! so it is refused.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

/// The address of an archive.
#[derive(Clone, PartialEq, Eq)]
pub struct ArchiveUrl {
    provider: Provider,
    /// The bucket, the container; nothing for a directory.
    bucket: String,
    /// What comes before every object's key; without slashes around it.
    prefix: String,
    options: Vec<(String, String)>,
    /// What the user wrote, without options.
    text: String,
    /// What the user wrote.
    whole: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Provider {
    Amazon,
    Google,
    Azure,
    Directory,
}

/// What an archive is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read what is there, or remove some of it.
    Read,
    /// To put WAL or backups into it. A directory is made when it is not there.
    Write,
}

/// An address that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveUrlError {
    /// Not an address at all.
    #[error("it is no URL")]
    Syntax(#[from] url::ParseError),
    /// Of something else.
    #[error("\"{0}\" is none of s3, gs, az and file")]
    Scheme(String),
    /// The bucket is missing.
    #[error("it names no bucket")]
    NoBucket,
    /// A path that is not one.
    #[error("a file URL has the form file:///absolute/path, without options")]
    NotADirectory,
    /// Something that only a user's password belongs to.
    #[error("it has a user or a port, which no store of this kind takes")]
    Authority,
    /// A secret.
    #[error("option \"{0}\" is a secret, which everybody who may list processes could read here")]
    Secret(String),
    /// No such option.
    #[error("the store has no option \"{0}\"")]
    Option(String),
    /// The store cannot be set up so.
    #[error("the store cannot be set up")]
    Build(#[source] Box<object_store::Error>),
    /// There is no such directory, and nothing to put into one.
    #[error("directory \"{}\" does not exist", .0.display())]
    NoDirectory(PathBuf),
    /// The directory cannot be made.
    #[error("could not create directory \"{}\"", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Options whose value nobody but the user may see.
const SECRETS: [&str; 12] = [
    "secret",
    "token",
    "key_id_secret",
    "password",
    "account_key",
    "access_key",
    "master_key",
    "sas",
    "service_account_key",
    "customer_key",
    "credential",
    "authorization",
];

/// How long one request may take; a segment of 1 GB on a slow link takes its time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the store's own retries are bounded by. Archiving tries again for as long as it takes, but says so.
const MAX_RETRIES: usize = 4;
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

impl ArchiveUrl {
    /// The address with its options, for another program to be told. There is no secret in it.
    pub fn whole(&self) -> &str {
        &self.whole
    }

    /// The directory, where it is one.
    pub fn directory(&self) -> Option<PathBuf> {
        (self.provider == Provider::Directory).then(|| PathBuf::from(format!("/{}", self.prefix)))
    }

    pub(super) fn prefix(&self) -> &str {
        if self.provider == Provider::Directory { "" } else { &self.prefix }
    }

    /// The store, without having spoken to it.
    pub(super) fn build(&self, access: Access) -> Result<Arc<dyn ObjectStore>, ArchiveUrlError> {
        let built = |error| ArchiveUrlError::Build(Box::new(error));
        // a provider that somebody else installed serves as well
        let _ = rustls::crypto::ring::default_provider().install_default();
        match self.provider {
            Provider::Directory => {
                let path = PathBuf::from(format!("/{}", self.prefix));
                match access {
                    Access::Write => create_directory(&path)
                        .map_err(|source| ArchiveUrlError::Directory { path: path.clone(), source })?,
                    // anything else that is wrong with it shows when it is read
                    Access::Read => {
                        if let Err(error) = std::fs::metadata(&path)
                            && error.kind() == std::io::ErrorKind::NotFound
                        {
                            return Err(ArchiveUrlError::NoDirectory(path));
                        }
                    }
                }
                let store = LocalFileSystem::new_with_prefix(path).map_err(built)?;
                Ok(Arc::new(store.with_fsync(true)))
            }
            Provider::Amazon => {
                let builder = AmazonS3Builder::from_env()
                    .with_client_options(client_options())
                    .with_retry(retries())
                    .with_checksum_algorithm(Checksum::SHA256)
                    .with_bucket_name(&self.bucket);
                let builder = self.with_options(builder, |builder, key: AmazonS3ConfigKey, value| {
                    builder.with_config(key, value)
                })?;
                let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
                let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
                // an http address that somebody wrote down is meant
                let builder = if plain { builder.with_allow_http(true) } else { builder };
                Ok(Arc::new(builder.build().map_err(built)?))
            }
            Provider::Google => {
                let builder = GoogleCloudStorageBuilder::from_env()
                    .with_client_options(client_options())
                    .with_retry(retries())
                    .with_bucket_name(&self.bucket);
                let builder = self.with_options(builder, |builder, key: GoogleConfigKey, value| {
                    builder.with_config(key, value)
                })?;
                Ok(Arc::new(builder.build().map_err(built)?))
            }
            Provider::Azure => {
                let builder = MicrosoftAzureBuilder::from_env()
                    .with_client_options(client_options())
                    .with_retry(retries())
                    .with_container_name(&self.bucket);
                let builder = self.with_options(builder, |builder, key: AzureConfigKey, value| {
                    builder.with_config(key, value)
                })?;
                Ok(Arc::new(builder.build().map_err(built)?))
            }
        }
    }

    fn with_options<B, K: FromStr>(
        &self,
        builder: B,
        set: impl Fn(B, K, &str) -> B,
    ) -> Result<B, ArchiveUrlError> {
        self.options.iter().try_fold(builder, |builder, (name, value)| {
            let key = name.parse().map_err(|_| ArchiveUrlError::Option(name.clone()))?;
            Ok(set(builder, key, value))
        })
    }
}

/// Made durably: what is archived there later is nothing when the directory is gone after a crash.
fn create_directory(path: &std::path::Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path)?;
    for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn client_options() -> ClientOptions {
    ClientOptions::new().with_timeout(REQUEST_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT)
}

fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: MAX_RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
    }
}

impl FromStr for ArchiveUrl {
    type Err = ArchiveUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text)?;
        let provider = match url.scheme() {
            "s3" => Provider::Amazon,
            "gs" => Provider::Google,
            "az" => Provider::Azure,
            "file" => Provider::Directory,
            other => return Err(ArchiveUrlError::Scheme(other.to_owned())),
        };
        if !url.username().is_empty() || url.password().is_some() || url.port().is_some() {
            return Err(ArchiveUrlError::Authority);
        }
        let bucket = url.host_str().unwrap_or_default().to_owned();
        let options: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let path = percent_encoding::percent_decode_str(url.path()).decode_utf8_lossy();
        let prefix = path.trim_matches('/').to_owned();
        if provider == Provider::Directory {
            if !bucket.is_empty() || !options.is_empty() || prefix.is_empty() || url.fragment().is_some() {
                return Err(ArchiveUrlError::NotADirectory);
            }
        } else if bucket.is_empty() {
            return Err(ArchiveUrlError::NoBucket);
        }
        if let Some((name, _)) = options.iter().find(|(name, _)| is_secret(name)) {
            return Err(ArchiveUrlError::Secret(name.clone()));
        }
        let whole = text.to_owned();
        let text = text.split(['?', '#']).next().unwrap_or_default().to_owned();
        Ok(ArchiveUrl { provider, bucket, prefix, options, text, whole })
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // it names who asks, and is in every request's log
    !name.ends_with("access_key_id") && SECRETS.iter().any(|secret| name.contains(secret))
}

impl fmt::Display for ArchiveUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ArchiveUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (text, provider, bucket, prefix) in [
            ("s3://wal/db1", Provider::Amazon, "wal", "db1"),
            ("s3://wal", Provider::Amazon, "wal", ""),
            ("s3://wal/a/b/?region=eu-west-1&endpoint=http://127.0.0.1:9", Provider::Amazon, "wal", "a/b"),
            ("gs://wal/db1/", Provider::Google, "wal", "db1"),
            ("az://wal/db%201", Provider::Azure, "wal", "db 1"),
            ("file:///srv/archive", Provider::Directory, "", "srv/archive"),
        ] {
            let url: ArchiveUrl = text.parse().unwrap();
            assert_eq!(
                (url.provider, &url.bucket[..], &url.prefix[..]),
                (provider, bucket, prefix),
                "{text}"
            );
            assert!(!url.to_string().contains('?'));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "/srv/archive",
            "ftp://host/x",
            "s3:///x",
            "file://host/x",
            "file:///",
            "file:///srv?x=1",
            "s3://user:secret@bucket/x",
            "s3://bucket:9000/x",
        ] {
            assert!(text.parse::<ArchiveUrl>().is_err(), "{text:?} was taken");
        }
        let unknown: ArchiveUrl = "s3://bucket/x?no_such_option=1".parse().unwrap();
        assert!(matches!(unknown.build(Access::Read), Err(ArchiveUrlError::Option(_))));
    }

    #[test]
    fn secrets_are_refused_and_never_printed() {
        for option in ["secret_access_key", "aws_secret_access_key", "token", "account_key", "sas_token"] {
            let text = format!("s3://bucket/x?{option}=hunter2");
            let error = text.parse::<ArchiveUrl>().unwrap_err();
            assert!(matches!(error, ArchiveUrlError::Secret(_)), "{option}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        assert!("s3://bucket/x?access_key_id=AKIA".parse::<ArchiveUrl>().is_ok());
    }
}
