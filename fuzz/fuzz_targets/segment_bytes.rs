//! Any bytes instead of a segment: opening the store is an error, or yields written values, and a
//! second open agrees.
#![no_main]

mod template;

use libfuzzer_sys::fuzz_target;
use template::{check, planted, template};

fuzz_target!(|input: (bool, &[u8])| {
    let (newest, bytes) = input;
    let mut files = template().0.clone();
    let mut segments = files.iter_mut().filter(|(name, _)| name.ends_with(".seg")).map(|(_, content)| content);
    let segment = if newest { segments.next_back() } else { segments.next() };
    *segment.expect("the template has segments") = bytes.to_vec();
    check(&planted(&files));
});
