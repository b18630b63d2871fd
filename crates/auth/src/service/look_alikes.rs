//! The index of names by what they look like: under each skeleton the ids of its users.
//!
//! It is kept whatever the policy is, so that a stricter policy finds what came before it.

use hightower_engine::KvEngine;

use super::AuthService;
use super::change::Change;
use crate::crypto::{EnvelopeEncryptor, SecretHasher};
use crate::error::{Error, Result};
use crate::id::{ID_LEN_BYTES, UserId};
use crate::layout;
use crate::mutants::planted;
use crate::username::{LookAlikes, NormalUsername};

impl<E: KvEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Enters a user under the skeleton of its name.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the policy refuses names that look alike and another user has one.
    pub(super) fn enter_look(&self, change: &mut Change<'_>, name: &NormalUsername, id: &UserId) -> Result<()> {
        let key = layout::look_alikes(&name.skeleton());
        let Some(held) = self.load(&key, |mut reader| Ok(reader.rest().to_vec()))? else {
            change.create(&key, id.as_bytes());
            return Ok(());
        };
        let others = held.value.as_chunks::<ID_LEN_BYTES>().0.iter().any(|other| other != id.as_bytes());
        if others && self.options().look_alikes == LookAlikes::Refuse && !planted("auth_look_alikes_taken") {
            return Err(Error::Conflict("the username looks like another user's"));
        }
        change.replace(&key, held.version, &[&held.value, &id.as_bytes()[..]].concat());
        Ok(())
    }

    /// Takes a user out from under the skeleton of its name.
    pub(super) fn leave_look(&self, change: &mut Change<'_>, name: &NormalUsername, id: &UserId) -> Result<()> {
        let key = layout::look_alikes(&name.skeleton());
        let Some(held) = self.load(&key, |mut reader| Ok(reader.rest().to_vec()))? else { return Ok(()) };
        let others: Vec<_> = held.value.as_chunks().0.iter().filter(|other| *other != id.as_bytes()).copied().collect();
        match others.is_empty() {
            true => change.remove(&key, held.version),
            false => change.replace(&key, held.version, &others.concat()),
        }
        Ok(())
    }
}
