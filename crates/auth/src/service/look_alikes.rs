//! The index of confusable names: under each skeleton the ids of its users.
//!
//! It is maintained under every policy, so that a stricter policy finds older names.

use std::collections::BTreeSet;

use hightower_engine::KeyspaceEngine;

use super::AuthService;
use super::change::ConditionalCommit;
use crate::crypto::{EnvelopeEncryptor, SecretHasher};
use crate::error::{Error, Result};
use crate::id::{ID_LEN_BYTES, UserId};
use crate::mutants::planted;
use crate::record::StoredUser;
use crate::record_keys;
use crate::username::{LookAlikes, normal_form};

impl<E: KeyspaceEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Adds a user under the skeletons of its name.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the policy refuses confusable names and another user has one.
    pub(super) fn enter_looks(
        &self,
        change: &mut ConditionalCommit<'_>,
        looks: &BTreeSet<String>,
        id: &UserId,
    ) -> Result<()> {
        for look in looks {
            let key = record_keys::look_alikes(look);
            let Some(held) = self.load(&key, |mut reader| Ok(reader.rest().to_vec()))? else {
                change.create(&key, id.as_bytes());
                continue;
            };
            let others = held.value.as_chunks::<ID_LEN_BYTES>().0.iter().any(|other| other != id.as_bytes());
            if others && self.options().look_alikes == LookAlikes::Refuse && !planted("auth_look_alikes_taken") {
                return Err(Error::Conflict("the username looks like another user's"));
            }
            change.replace(&key, held.version, &[&held.value, &id.as_bytes()[..]].concat());
        }
        Ok(())
    }

    /// Removes a user from the skeletons of its name.
    pub(super) fn leave_looks(
        &self,
        change: &mut ConditionalCommit<'_>,
        looks: &BTreeSet<String>,
        id: &UserId,
    ) -> Result<()> {
        for look in looks {
            let key = record_keys::look_alikes(look);
            let Some(held) = self.load(&key, |mut reader| Ok(reader.rest().to_vec()))? else { continue };
            let mut others = held.value.as_chunks().0.to_vec();
            others.retain(|other| other != id.as_bytes());
            match others.is_empty() {
                true => change.remove(&key, held.version),
                false => change.replace(&key, held.version, &others.concat()),
            }
        }
        Ok(())
    }

    /// Moves a user from the skeletons of its old name to those of the new one.
    ///
    /// # Errors
    /// As [`Self::enter_looks`].
    pub(super) fn change_looks(
        &self,
        change: &mut ConditionalCommit<'_>,
        before: &BTreeSet<String>,
        after: &BTreeSet<String>,
        id: &UserId,
    ) -> Result<()> {
        self.leave_looks(change, &(before - after), id)?;
        self.enter_looks(change, &(after - before), id)
    }
}

impl StoredUser {
    /// The skeletons of the user's name.
    pub(super) fn looks(&self) -> Result<BTreeSet<String>> {
        Ok(normal_form(&self.normal_name)?.skeletons(&self.public.username))
    }
}
