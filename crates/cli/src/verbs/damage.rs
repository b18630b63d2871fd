//! Damaged places in the output of `check` and `salvage`.

use hightower_kv::DamagedPlace;
use serde::Serialize;

use crate::notation::show;
use crate::records::Bytes;
use crate::units::bytes;

/// One damaged place.
#[derive(Serialize)]
pub(crate) struct Damage {
    file: String,
    offset: u64,
    len_bytes: Option<u64>,
    message: String,
    /// The last key before it, and the first key behind it, if the file is in key order.
    after_key: Option<Bytes<'static>>,
    before_key: Option<Bytes<'static>>,
}

impl Damage {
    pub(crate) fn of(place: &DamagedPlace) -> Self {
        let keys = place.keys.clone().unwrap_or_default();
        let key = |key: Option<Vec<u8>>| key.map(|key| Bytes(key.into()));
        let file = place.path.display().to_string();
        // Remove the part of the message that the other fields repeat.
        let without = |text: &str, beginning: &str| text.strip_prefix(beginning).unwrap_or(text).to_owned();
        let message = without(&place.detail, &format!("{file}: "));
        let message = without(&message, &format!("damaged at offset {}: ", place.offset));
        Self {
            offset: place.offset,
            len_bytes: place.len_bytes,
            message: without(&message, &format!("offset {}: ", place.offset)),
            file,
            after_key: key(keys.after),
            before_key: key(keys.before),
        }
    }

    pub(crate) fn describe(&self) -> String {
        let len = self.len_bytes.map_or_else(String::new, |len| format!(", {}", bytes(len)));
        let mut line = format!("  {} at {}{len}: {}", self.file, self.offset, self.message);
        let mut key = |word: &str, key: &Option<Bytes<'_>>| {
            if let Some(Bytes(key)) = key {
                line.push_str(&format!("; {word} the key {}", show(key)));
            }
        };
        key("after", &self.after_key);
        key("before", &self.before_key);
        line
    }
}
