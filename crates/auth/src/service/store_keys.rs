//! The store's own keys: two random roots, wrapped by the master key, from which a key for each
//! purpose is derived.
//!
//! The **sealing root** authenticates records. [`AuthService::rotate_root`](super::AuthService::rotate_root) replaces it; afterwards
//! the old root cannot forge records. The **lookup root** derives lookup tags from random secrets,
//! names and addresses, and chains the audit trail. It stays, so that tokens and anchors outlive
//! every rotation. It cannot forge records without the sealing root.

use std::collections::BTreeSet;

use crate::api_key_cache::ApiKeyCache;
use crate::codec::{FieldReader, FieldWriter};
use crate::crypto::{EncryptedBlob, EnvelopeEncryptor, MacKey, MasterKeyId, SecretHash};
use crate::error::{Error, Result};
use crate::record_keys;
use crate::record_mac::{RecordSealer, identity};

const FORMAT: u8 = 1;

/// The keys derived from the roots, as of one version of the `meta` record.
#[derive(Clone, Debug)]
pub(super) struct StoreKeys {
    pub(super) store_id: [u8; 16],
    /// The version of the `meta` record. Every commit requires it, so that no commit uses replaced
    /// keys.
    pub(super) meta_version: u64,
    /// The ciphertexts of the roots. They identify the roots, because a re-wrap changes only the
    /// wrapped data keys.
    roots: Vec<Vec<u8>>,
    /// The id of the master key that wraps the roots.
    pub(super) master_key_id: MasterKeyId,
    pub(super) sealer: RecordSealer,
    pub(super) api_key: MacKey,
    pub(super) session: MacKey,
    pub(super) single_use: MacKey,
    pub(super) recovery: MacKey,
    pub(super) guess: MacKey,
    pub(super) names: MacKey,
    pub(super) audit: MacKey,
}

impl StoreKeys {
    /// Unwraps the roots of a `meta` record of this version, and derives the keys.
    pub(super) fn derive(meta: &Meta, meta_version: u64, crypto: &impl EnvelopeEncryptor) -> Result<Self> {
        let open = |blob, root| crypto.open(blob, &root_identity(&meta.store_id, root));
        let sealing = |blob| MacKey::new(&open(blob, Root::Sealing)?)?.derive(b"hightower-auth records v1");
        let previous = meta.previous.as_ref().map(sealing).transpose()?;
        let lookup = MacKey::new(&open(&meta.lookup, Root::Lookup)?)?;
        Ok(Self {
            store_id: meta.store_id,
            meta_version,
            roots: meta.encrypted_roots(),
            master_key_id: meta.sealing.key_id(),
            sealer: RecordSealer::new(sealing(&meta.sealing)?, meta.store_id).with_previous(previous),
            api_key: lookup.derive(b"hightower-auth api keys v1")?,
            session: lookup.derive(b"hightower-auth sessions v1")?,
            single_use: lookup.derive(b"hightower-auth single-use tokens v1")?,
            recovery: lookup.derive(b"hightower-auth recovery codes v1")?,
            guess: lookup.derive(b"hightower-auth guesses v1")?,
            names: lookup.derive(b"hightower-auth names v1")?,
            audit: lookup.derive(b"hightower-auth audit v1")?,
        })
    }

    /// The same keys as of this version of `meta`, if its roots are still those of the keys: a ring
    /// without the newer master key need not unwrap them again.
    pub(super) fn rewrapped(&self, meta: &Meta, meta_version: u64) -> Option<Self> {
        let is_same = self.roots == meta.encrypted_roots();
        is_same.then(|| Self { meta_version, master_key_id: meta.sealing.key_id(), ..self.clone() })
    }

    /// The key of a name's entry in the index of names.
    pub(super) fn name_key(&self, normal: &str) -> Vec<u8> {
        record_keys::name(&self.names.tag(&[normal.as_bytes()]))
    }
}

/// The keys of the process.
#[derive(Debug)]
pub(super) struct ProcessKeys {
    /// A hash of a random secret, verified where no password hash exists.
    pub(super) decoy: SecretHash,
    pub(super) verified: ApiKeyCache,
}

/// The `meta` record: the store id and the wrapped roots.
pub(crate) struct Meta {
    pub(super) store_id: [u8; 16],
    pub(super) sealing: EncryptedBlob,
    pub(super) lookup: EncryptedBlob,
    /// The previous sealing root, wrapped by an older master key, during a rotation. It is never
    /// wrapped by a newer master key, because an attacker with the old root could then restore it.
    pub(super) previous: Option<EncryptedBlob>,
}

impl Meta {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut writer = FieldWriter::default();
        writer.u8(FORMAT).raw(&self.store_id);
        writer.bytes(&self.sealing.to_bytes())?.bytes(&self.lookup.to_bytes())?;
        writer.optional_bytes(self.previous.as_ref().map(EncryptedBlob::to_bytes).as_deref())?;
        Ok(writer.finish())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = FieldReader::new(bytes);
        match reader.u8()? {
            FORMAT => {}
            found => return Err(Error::VersionUnsupported { what: "the service's key record", found, known: FORMAT }),
        }
        let meta = Self {
            store_id: reader.array()?,
            sealing: EncryptedBlob::from_bytes(reader.bytes()?)?,
            lookup: EncryptedBlob::from_bytes(reader.bytes()?)?,
            previous: reader.optional_bytes()?.map(EncryptedBlob::from_bytes).transpose()?,
        };
        reader.end()?;
        Ok(meta)
    }

    fn encrypted_roots(&self) -> Vec<Vec<u8>> {
        let roots = [Some(&self.sealing), Some(&self.lookup), self.previous.as_ref()];
        let text = |root: Option<&EncryptedBlob>| root.map(|blob| [&blob.nonce()[..], blob.ciphertext()].concat());
        roots.into_iter().map(|root| text(root).unwrap_or_default()).collect()
    }

    /// The ids of the master keys that wrap the roots.
    pub(super) fn master_keys(&self) -> BTreeSet<MasterKeyId> {
        [&self.sealing, &self.lookup].into_iter().chain(&self.previous).map(EncryptedBlob::key_id).collect()
    }
}

/// The kind of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    Sealing,
    Lookup,
}

/// The associated data of a wrapped root.
pub(super) fn root_identity(store_id: &[u8; 16], root: Root) -> Vec<u8> {
    let name = match root {
        Root::Sealing => "sealing root",
        Root::Lookup => "lookup root",
    };
    identity(store_id, "store", store_id, name)
}
