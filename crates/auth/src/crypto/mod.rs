//! The cryptography of the service, behind small wrappers with known-answer tests.
//!
//! All algorithms are standards: Argon2id (RFC 9106) for passwords, HMAC-SHA-256 (RFC 2104) for
//! records and random secrets, AES-256-GCM (SP 800-38D) for data, each from the RustCrypto project.

pub mod aead;
mod argon2_params;
pub mod argon2id;
mod envelope;
mod gate;
mod key_file;
mod key_ring;
mod mac;
mod pepper;
mod phc;
mod secret_file;

pub use argon2_params::Argon2Params;
pub use argon2id::{Argon2SecretHasher, SecretHash, SecretHasher, calibrate};
pub use envelope::{AesGcmEncryptor, EncryptedBlob, EnvelopeEncryptor, MAX_PLAINTEXT_LEN_BYTES};
pub use key_file::{KeyFile, MAX_KEY_FILE_LEN_BYTES};
pub use key_ring::{KeyEnvironment, KeyProvider, KeyRing, MAX_MASTER_KEYS, MasterKeyId};
pub use mac::{MacKey, TAG_LEN_BYTES};
pub use pepper::{MIN_PEPPER_LEN_BYTES, Pepper, PepperId};
