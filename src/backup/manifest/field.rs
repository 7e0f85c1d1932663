//! The fields of a manifest, and where each stands.

/// Where a field stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Top,
    File,
    Range,
}

impl Scope {
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Scope::Top => "top level",
            Scope::File => "a file",
            Scope::Range => "a WAL range",
        }
    }
}

/// The fields; the discriminant is the bit in `seen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Version,
    SystemIdentifier,
    Files,
    WalRanges,
    ManifestChecksum,
    Path,
    EncodedPath,
    Size,
    LastModified,
    ChecksumAlgorithm,
    Checksum,
    Timeline,
    StartLsn,
    EndLsn,
}

impl Field {
    const ALL: [Field; 14] = [
        Field::Version,
        Field::SystemIdentifier,
        Field::Files,
        Field::WalRanges,
        Field::ManifestChecksum,
        Field::Path,
        Field::EncodedPath,
        Field::Size,
        Field::LastModified,
        Field::ChecksumAlgorithm,
        Field::Checksum,
        Field::Timeline,
        Field::StartLsn,
        Field::EndLsn,
    ];

    pub(super) fn parse(scope: Scope, key: &[u8]) -> Option<Field> {
        Self::ALL.into_iter().find(|field| field.scope() == scope && field.name().as_bytes() == key)
    }

    pub(super) const fn bit(self) -> u16 {
        1 << self as u16
    }

    pub(super) const fn scope(self) -> Scope {
        match self {
            Field::Version
            | Field::SystemIdentifier
            | Field::Files
            | Field::WalRanges
            | Field::ManifestChecksum => Scope::Top,
            Field::Timeline | Field::StartLsn | Field::EndLsn => Scope::Range,
            _ => Scope::File,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Field::Version => "PostgreSQL-Backup-Manifest-Version",
            Field::SystemIdentifier => "System-Identifier",
            Field::Files => "Files",
            Field::WalRanges => "WAL-Ranges",
            Field::ManifestChecksum => "Manifest-Checksum",
            Field::Path => "Path",
            Field::EncodedPath => "Encoded-Path",
            Field::Size => "Size",
            Field::LastModified => "Last-Modified",
            Field::ChecksumAlgorithm => "Checksum-Algorithm",
            Field::Checksum => "Checksum",
            Field::Timeline => "Timeline",
            Field::StartLsn => "Start-LSN",
            Field::EndLsn => "End-LSN",
        }
    }
}
