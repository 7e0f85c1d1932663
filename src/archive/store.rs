//! An archive's objects: create, read, list, remove. Four verbs over whatever store the address names.
//!
//! Nothing that matters is ever written over: an object is created or it exists, and one that exists has the content
//! that was to be written, or the archive is in conflict. Stores that do not honour the condition are found out by
//! [`ArchiveStore::check_conditions`] before anything is entrusted to them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    Error, GetResult, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    PutPayload,
};
use tokio::sync::OnceCell;

use super::buffers::{self, Buffer};
use super::envelope::{self, EnvelopeError};
use super::error::ArchiveError;
use super::identity::ClusterIdentity;
use super::keyring::Keyring;
use super::layout::{self, LEASE_PREFIX, PROBE_PREFIX};
use super::store_url::{Access, ArchiveUrl};
use crate::direct;
use crate::pg::SystemIdentifier;

/// The objects below one prefix of a store.
#[derive(Debug, Clone)]
pub struct ArchiveStore {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Where it is a directory: names in it are made durable by us.
    directory: Option<Arc<std::path::Path>>,
    /// What the user calls it.
    address: Option<Arc<str>>,
    /// What objects are encrypted with, if they are.
    keys: Option<Arc<Keyring>>,
    /// Whose archive it is, once an encrypted object had to be opened or sealed.
    owner: Arc<OnceCell<SystemIdentifier>>,
    failures: Arc<AtomicU64>,
    /// Directories whose names are durable.
    durable_places: Arc<Mutex<BTreeSet<std::path::PathBuf>>>,
}

/// What came of a creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// The object was made.
    Created,
    /// There is one of this name; it was left alone.
    Exists,
}

/// An object as a listing has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key below the archive's prefix.
    pub key: String,
    /// Its length in bytes.
    pub len: u64,
    /// When it was put there, by the store's clock.
    pub modified_at: SystemTime,
}

/// More objects than this in one listing are no archive: 4 million segments of 16 MB are 64 TB of WAL.
const MAX_LISTED: usize = 4 << 20;

/// How many directories are remembered: those of the segments that are being written.
const MAX_PLACES: usize = 64;

/// How many probes may be found to exist already.
const PROBE_ATTEMPTS: usize = 5;

impl ArchiveStore {
    /// The store at an address. Speaks to nobody yet.
    pub fn open(url: &ArchiveUrl, access: Access) -> Result<Self, ArchiveError> {
        let store = url.build(access).map_err(|source| ArchiveError::Url { url: url.to_string(), source })?;
        let directory = url.directory().map(Arc::from);
        let address = Some(Arc::from(url.to_string()));
        Ok(ArchiveStore { directory, address, ..Self::over(store, url.prefix()) })
    }

    /// The objects of `store` below `prefix`.
    pub fn over(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        ArchiveStore {
            store,
            prefix: Path::from(prefix),
            directory: None,
            address: None,
            keys: None,
            owner: Arc::default(),
            failures: Arc::default(),
            durable_places: Arc::default(),
        }
    }

    pub(super) fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// The same with objects that are encrypted: all that is written is, and what is read has to be.
    pub fn with_keys(self, keys: Option<Arc<Keyring>>) -> Self {
        ArchiveStore { keys, owner: Arc::default(), ..self }
    }

    /// How many requests have failed.
    pub fn failure_count(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Creates an object, unless there is one of this name.
    pub async fn create(&self, key: &str, content: Bytes) -> Result<Creation, ArchiveError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let content = self.sealed(key, content).await?;
        match self.store.put_opts(&self.path(key), PutPayload::from_bytes(content), options).await {
            Ok(_) => {
                self.make_place_durable(key)?;
                Ok(Creation::Created)
            }
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                self.make_durable([key])?;
                Ok(Creation::Exists)
            }
            // it has its name, and that could not be made durable: after a failed fsync nothing is worth another try
            Err(error) if self.file(key).is_some_and(|file| file.exists()) => {
                let path = self.file(key).unwrap_or_default();
                Err(ArchiveError::file("make durable", path, std::io::Error::other(error)))
            }
            Err(error) => Err(self.failed("create", key, error)),
        }
    }

    /// Writes an object, whether there is one of this name or not: for those that only one writer has.
    pub(super) async fn replace(&self, key: &str, content: Bytes) -> Result<(), ArchiveError> {
        let content = self.sealed(key, content).await?;
        let put = self.store.put(&self.path(key), PutPayload::from_bytes(content)).await;
        put.map(drop).map_err(|error| self.failed("write", key, error))
    }

    /// Makes the names of objects durable that somebody has found, in a store that is a directory: who created them may not have
    /// lived to do it.
    pub(super) fn make_durable<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), ArchiveError> {
        let Some(root) = &self.directory else { return Ok(()) };
        let parents = keys.into_iter().filter_map(|key| self.file(key)?.parent().map(ToOwned::to_owned));
        let mut directories = BTreeSet::new();
        for parent in parents {
            let within = parent.ancestors().take_while(|directory| directory.starts_with(root));
            directories.extend(within.map(ToOwned::to_owned));
        }
        for directory in directories {
            let synced = std::fs::File::open(&directory).and_then(|directory| directory.sync_all());
            match synced {
                // with its last object a directory goes, too
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                synced => {
                    synced.map_err(|source| ArchiveError::file("fsync directory", directory, source))?;
                }
            }
        }
        Ok(())
    }

    /// The same of an object that was created, where it may be the first of its directory: another request may have made that a moment
    /// ago, and not be done with it.
    fn make_place_durable(&self, key: &str) -> Result<(), ArchiveError> {
        let Some(place) = self.file(key).and_then(|file| file.parent().map(ToOwned::to_owned)) else {
            return Ok(());
        };
        let known = || self.durable_places.lock().unwrap_or_else(PoisonError::into_inner);
        if !known().contains(&place) {
            self.make_durable([key])?;
            let mut known = known();
            if known.len() == MAX_PLACES {
                known.clear();
            }
            known.insert(place);
        }
        Ok(())
    }

    fn file(&self, key: &str) -> Option<std::path::PathBuf> {
        self.directory.as_ref().map(|directory| directory.join(key))
    }

    /// The whole of an object; `None` where there is none of this name.
    pub async fn read(&self, key: &str, max_len: u64) -> Result<Option<Bytes>, ArchiveError> {
        let found = match self.store.get(&self.path(key)).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed("read", key, error)),
        };
        let len = found.meta.size;
        let max_len = max_len + envelope::MAX_OVERHEAD;
        if len > max_len {
            return Err(ArchiveError::TooLong { key: key.to_owned(), len, max_len });
        }
        let content = gathered(found, len).await.map_err(|error| self.failed("read", key, error))?;
        if content.len() as u64 != len {
            let found = content.len() as u64;
            return Err(ArchiveError::Short { key: key.to_owned(), found, expected: len });
        }
        self.opened(key, content).await.map(Some)
    }

    /// Whether there is an object of this name.
    pub async fn exists(&self, key: &str) -> Result<bool, ArchiveError> {
        match self.store.head(&self.path(key)).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failed("look for", key, error)),
        }
    }

    /// The objects whose keys begin with `prefix`, which ends in a slash, in the keys' order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, ArchiveError> {
        self.collect(prefix, self.store.list(Some(&self.path(prefix)))).await
    }

    /// Those of them whose keys come behind `key` in their order.
    pub async fn list_behind(&self, prefix: &str, key: &str) -> Result<Vec<ListedObject>, ArchiveError> {
        let found = self.store.list_with_offset(Some(&self.path(prefix)), &self.path(key));
        let mut found = self.collect(prefix, found).await?;
        // some stores begin at the beginning all the same
        found.retain(|object| *object.key > *key);
        Ok(found)
    }

    async fn collect(
        &self,
        prefix: &str,
        mut found: BoxStream<'static, object_store::Result<ObjectMeta>>,
    ) -> Result<Vec<ListedObject>, ArchiveError> {
        let failed = |error| self.failed("list", prefix, error);
        let mut objects = Vec::new();
        while let Some(object) = found.try_next().await.map_err(failed)? {
            if objects.len() == MAX_LISTED {
                let (len, max_len) = (MAX_LISTED as u64 + 1, MAX_LISTED as u64);
                return Err(ArchiveError::TooLong { key: prefix.to_owned(), len, max_len });
            }
            if let Some(key) = self.key(&object.location) {
                let modified_at = object.last_modified.into();
                objects.push(ListedObject { key, len: object.size, modified_at });
            }
        }
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// What lies directly below `prefix`: the names that go on with a slash, and the objects.
    pub async fn list_level(&self, prefix: &str) -> Result<(Vec<String>, Vec<ListedObject>), ArchiveError> {
        let found = self.store.list_with_delimiter(Some(&self.path(prefix))).await;
        let found = found.map_err(|error| self.failed("list", prefix, error))?;
        let objects = found.objects.iter();
        let objects = objects.filter_map(|object| {
            let modified_at = object.last_modified.into();
            Some(ListedObject { key: self.key(&object.location)?, len: object.size, modified_at })
        });
        let directories = found.common_prefixes.iter().filter_map(|path| self.key(path)).collect();
        Ok((directories, objects.collect()))
    }

    /// Removes an object; that there is none is fine.
    pub async fn remove(&self, key: &str) -> Result<(), ArchiveError> {
        match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove", key, error)),
        }
    }

    /// Whether a creation really leaves what is there alone: tried with an object of its own, which is removed again.
    pub async fn check_conditions(&self) -> Result<(), ArchiveError> {
        let mut attempts = 0;
        let key = loop {
            let key = layout::probe_key(fastrand::u64(..));
            if self.create(&key, Bytes::from_static(b"first")).await? == Creation::Created {
                break key;
            }
            // our own: a request that was sent again after its answer was lost
            self.remove(&key).await?;
            attempts += 1;
            if attempts == PROBE_ATTEMPTS {
                return Err(ArchiveError::Vanished { key });
            }
        };
        let second = self.create(&key, Bytes::from_static(b"second")).await;
        let content = self.read(&key, 64).await;
        self.remove(&key).await?;
        let kept = content?.is_some_and(|content| content[..] == b"first"[..]);
        if second? == Creation::Exists && kept {
            return Ok(());
        }
        Err(ArchiveError::Overwrites { key })
    }

    async fn sealed(&self, key: &str, content: Bytes) -> Result<Bytes, ArchiveError> {
        let Some(keys) = &self.keys else { return Ok(content) };
        let sealed = envelope::seal(keys, self.owner(key).await?, key, &content);
        sealed.map(Bytes::from).map_err(|source| ArchiveError::Envelope { key: key.to_owned(), source })
    }

    async fn opened(&self, key: &str, content: Bytes) -> Result<Bytes, ArchiveError> {
        let opened = match &self.keys {
            Some(keys) => envelope::open(keys, self.owner(key).await?, key, &content).map(Bytes::from),
            None if envelope::is_sealed(&content) => Err(EnvelopeError::NoKey),
            None => Ok(content),
        };
        opened.map_err(|source| ArchiveError::Envelope { key: key.to_owned(), source })
    }

    /// The cluster that an object is bound to. Those that are there before it is known, or tell it, are bound to none.
    async fn owner(&self, key: &str) -> Result<Option<SystemIdentifier>, ArchiveError> {
        if key == layout::CLUSTER_KEY || key.starts_with(LEASE_PREFIX) || key.starts_with(PROBE_PREFIX) {
            return Ok(None);
        }
        // it is an object, too
        let ask = || async { Ok(Box::pin(ClusterIdentity::of(self)).await?.system_identifier) };
        self.owner.get_or_try_init(ask).await.copied().map(Some)
    }

    /// Says whose archive it is, once that is known.
    pub(super) fn is_of(&self, cluster: SystemIdentifier) {
        // known already, or found out at this moment
        let _ = self.owner.set(cluster);
    }

    fn failed(&self, action: &'static str, key: &str, error: Error) -> ArchiveError {
        self.failures.fetch_add(1, Ordering::Relaxed);
        ArchiveError::store(action, key, error)
    }

    fn path(&self, key: &str) -> Path {
        // keys are made of characters that need no escape
        Path::from(format!("{}/{key}", self.prefix))
    }

    fn key(&self, path: &Path) -> Option<String> {
        let whole = path.as_ref();
        if self.prefix.as_ref().is_empty() {
            return Some(whole.to_owned());
        }
        whole.strip_prefix(self.prefix.as_ref())?.strip_prefix('/').map(ToOwned::to_owned)
    }
}

/// The content of an object of `len` bytes, a long one in a [`Buffer`]; more or less where it is not as long.
async fn gathered(found: GetResult, len: u64) -> object_store::Result<Bytes> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len < buffers::LONG_LEN {
        return found.bytes().await;
    }
    match found.payload {
        GetResultPayload::File(file, path) => {
            let read = tokio::task::spawn_blocking(move || {
                let mut content = Buffer::take(len);
                direct::read_exact_at(&file, &mut content, 0).map(|()| content.into_bytes())
            });
            let failed = |source| Error::Generic { store: "LocalFileSystem", source };
            let read = read.await.map_err(|error| failed(Box::new(error)))?;
            read.map_err(|error| failed(format!("could not read {}: {error}", path.display()).into()))
        }
        GetResultPayload::Stream(mut chunks) => {
            let (mut content, mut content_len) = (Buffer::take(len), 0);
            while let Some(chunk) = chunks.try_next().await? {
                let end = content_len + chunk.len();
                let Some(place) = content.get_mut(content_len..end) else {
                    // that it is longer is all that counts
                    return Ok(Bytes::from([&content[..content_len], &chunk].concat()));
                };
                place.copy_from_slice(&chunk);
                content_len = end;
            }
            content.truncate(content_len);
            Ok(content.into_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::pg::WalSegmentSize;

    /// Two archives under the same keys: what was moved from one to the other is noticed.
    #[tokio::test]
    async fn an_object_is_its_own_archives() {
        let keys = Arc::new(Keyring::parse(&format!("k1 {}\n", "1f".repeat(32))).unwrap());
        let backing: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let archive = async |prefix: &str, system: u64| {
            let plain = ArchiveStore::over(Arc::clone(&backing), prefix);
            let store = plain.clone().with_keys(Some(Arc::clone(&keys)));
            let system_identifier = SystemIdentifier::new(system);
            let identity =
                ClusterIdentity { system_identifier, segment_size: WalSegmentSize::DEFAULT, major: 17 };
            identity.claim(&store).await.unwrap();
            (store, plain)
        };
        let ((one, one_plain), (other, other_plain)) = (archive("one", 1).await, archive("other", 2).await);
        one.create("wal/x", Bytes::from_static(b"content")).await.unwrap();
        assert_eq!(one.read("wal/x", 100).await.unwrap().unwrap(), "content");
        let sealed = one_plain.store.get(&one_plain.path("wal/x")).await.unwrap().bytes().await.unwrap();
        other_plain.create("wal/x", sealed).await.unwrap();
        let opened = other.read("wal/x", 100).await;
        let altered = matches!(opened, Err(ArchiveError::Envelope { source: EnvelopeError::Altered, .. }));
        assert!(altered, "{opened:?}");
    }
}
