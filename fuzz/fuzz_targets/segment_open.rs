//! A store with patched files: opening it is an error, or yields written values, and a second open
//! agrees.
#![no_main]

mod template;

use libfuzzer_sys::fuzz_target;
use template::{check, planted, template};

fuzz_target!(|patches: Vec<(u8, u16, Vec<u8>)>| {
    let mut files = template().0.clone();
    for (file, at, bytes) in &patches {
        let nth = usize::from(*file) % files.len();
        if let Some(content) = files.values_mut().nth(nth) {
            let at = usize::from(*at).min(content.len());
            let end = (at + bytes.len()).min(content.len());
            content[at..end].copy_from_slice(&bytes[..end - at]);
        }
    }
    check(&planted(&files));
});
