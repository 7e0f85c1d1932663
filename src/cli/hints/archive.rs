//! Hints for archives.

use crate::ErrorClass;
use crate::archive::envelope::EnvelopeError;
use crate::archive::{ArchiveError, ArchiveUrlError};

pub(super) fn archive(error: &ArchiveError) -> Option<&'static str> {
    use object_store::Error as Store;
    Some(match error {
        ArchiveError::Url { source: ArchiveUrlError::Secret(_), .. } => {
            "Put it into the environment: AWS_SECRET_ACCESS_KEY, AZURE_STORAGE_ACCOUNT_KEY, \
             GOOGLE_APPLICATION_CREDENTIALS, or a role of the machine."
        }
        ArchiveError::Url { source: ArchiveUrlError::NoDirectory(_), .. } => {
            "Is its disk mounted? \"pgwake receive --archive\" and \"pgwake backup --archive\" make the directory."
        }
        ArchiveError::Url { .. } => {
            "An archive is s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIR."
        }
        ArchiveError::Store { source, .. } => match &**source {
            Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => {
                "Check the credentials in the environment (AWS_*, GOOGLE_*, AZURE_*), and that they may list, read, create \
                 and delete objects below the prefix."
            }
            Store::NotFound { .. } => "Make the bucket first, or check its name and its region.",
            Store::Generic { .. } if error.class() == ErrorClass::Operator => {
                "The store takes no such request. Check its address and region, and whether it speaks the provider's protocol."
            }
            _ => return None,
        },
        ArchiveError::Overwrites { .. } => {
            "An archive whose objects can be written over cannot be trusted with WAL. Use a store that honours \
             \"If-None-Match: *\": Amazon S3, Google Cloud Storage, Azure Blob Storage, MinIO and Ceph do."
        }
        ArchiveError::Conflict { .. } => {
            "Two clusters, or two histories of one, have written here. Archive to another prefix, and find out which \
             server wrote the object."
        }
        ArchiveError::Gap { .. } => {
            "A restore from before the gap cannot go past it. If another directory has this WAL, archive from that one first. \
             Else take a new base backup, and go on with --accept-archive-gap."
        }
        ArchiveError::EndsInGap { .. } => {
            "Recovery would end here, with later WAL in the archive. Restore a base backup from behind the gap, or add \
             --end-at-gap to recover up to it."
        }
        ArchiveError::EndsEarly { .. } => {
            "Objects are gone: look for a lifecycle rule, or older versions of them in the store. --end-at-gap recovers what is left."
        }
        ArchiveError::Foreign { .. } => {
            "Another cluster's, or damaged: move it out of the directory. pgwake wal verify says what else is in it."
        }
        ArchiveError::Gone { .. } => {
            "Is its disk mounted, and the bucket the right one? To begin a new archive, give it another prefix, or remove the file \
             .pgwake.archives from the directory, and take a new base backup."
        }
        ArchiveError::Compressed { .. } => {
            "Decompress the segments, or archive from a new directory; an archive compresses for itself."
        }
        ArchiveError::OtherSystem { .. }
        | ArchiveError::OtherSegmentSize { .. }
        | ArchiveError::OtherMajor { .. } => {
            "Each cluster needs a prefix of its own; after pg_upgrade or a new initdb, a new one (and a new directory for pgwake receive), \
             and a base backup there."
        }
        ArchiveError::NotAnArchive { .. } => {
            "Check bucket and prefix; \"pgwake receive --archive\" makes the archive with the first WAL."
        }
        ArchiveError::Damaged { .. } | ArchiveError::TooLong { .. } => {
            "Somebody changed the object, or the store lost a part of it. Get the segment from another copy."
        }
        ArchiveError::OtherSegment { .. } => {
            "Somebody put it there, or moved objects. \"pgwake wal verify --archive\" names everything that is wrong."
        }
        ArchiveError::Held { .. } => {
            "One receiver at a time writes to an archive. Stop that one first; if its machine is gone, its lease runs out by \
             itself. --take-over takes the archive from it now, and it ends."
        }
        ArchiveError::Fenced { .. } => {
            "What was reported as archived is there. Leave the archive to that one, or take it back with --take-over."
        }
        ArchiveError::Envelope { source, .. } => match source {
            EnvelopeError::NotEncrypted => {
                "With keys given, objects have to be encrypted: one that is not may be anybody's. An archive is encrypted from its \
                 first object on; begin a new prefix."
            }
            EnvelopeError::UnknownKey(_) | EnvelopeError::NoKey => {
                "Give the keys with --encryption-keys or --encryption-keys-command; keep old ones as long as there are objects of \
                 theirs."
            }
            EnvelopeError::Altered => {
                "The key's name is right and its content is not, or somebody changed the object. Compare the key first."
            }
            EnvelopeError::Random => return None,
        },
        ArchiveError::Keys(_) => {
            "A key a line: a name, a space, 64 hexadecimal digits, as from: echo \"k1 $(openssl rand -hex 32)\". chmod 600 a \
             file of keys."
        }
        ArchiveError::Identity { .. } | ArchiveError::Lease { .. } => {
            "A later pgwake may have made it; this one changes nothing there."
        }
        _ => return None,
    })
}
