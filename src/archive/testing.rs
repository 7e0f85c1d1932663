//! A store in memory for tests, with something that happens before each request.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::identity::ClusterIdentity;
use super::store::ArchiveStore;
use crate::pg::WalFileName;

/// Gives a segment the header that it begins with: the fields that say whose it is, and which.
pub(super) fn segment_beginning(wal: &mut [u8], identity: ClusterIdentity, file: WalFileName) {
    wal[4..8].copy_from_slice(&file.timeline.as_u32().to_le_bytes());
    wal[8..16].copy_from_slice(&file.segment.start_lsn().as_u64().to_le_bytes());
    wal[24..32].copy_from_slice(&identity.system_identifier.as_u64().to_le_bytes());
    wal[32..36].copy_from_slice(&(identity.segment_size.as_u64() as u32).to_le_bytes());
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Create,
    Read,
    List,
    Remove,
}

type Hook = dyn Fn(Verb, &str) -> BoxFuture<'static, Result<()>> + Send + Sync;

/// The request is made when the hook's future is done, and fails if that does.
pub(crate) struct HookedStore {
    inner: Arc<dyn ObjectStore>,
    hook: Box<Hook>,
}

impl HookedStore {
    /// An archive over a store in memory, and the same without the hook.
    pub(crate) fn archive(
        hook: impl Fn(Verb, &str) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> (ArchiveStore, ArchiveStore) {
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let hooked = HookedStore { inner: Arc::clone(&inner), hook: Box::new(hook) };
        (ArchiveStore::over(Arc::new(hooked), "db"), ArchiveStore::over(inner, "db"))
    }
}

impl fmt::Debug for HookedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookedStore")
    }
}

impl fmt::Display for HookedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookedStore")
    }
}

#[async_trait]
impl ObjectStore for HookedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        (self.hook)(Verb::Create, location.as_ref()).await?;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        (self.hook)(Verb::Read, location.as_ref()).await?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let hooked = (self.hook)(Verb::Remove, "");
        let inner = Arc::clone(&self.inner);
        stream::once(async move { hooked.await.map(|()| inner.delete_stream(locations)) })
            .try_flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let hooked = (self.hook)(Verb::List, prefix.map_or("", |prefix| prefix.as_ref()));
        let (inner, prefix) = (Arc::clone(&self.inner), prefix.cloned());
        stream::once(async move { hooked.await.map(|()| inner.list(prefix.as_ref())) }).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        (self.hook)(Verb::List, prefix.map_or("", |prefix| prefix.as_ref())).await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
