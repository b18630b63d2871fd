//! A planted bug that the fuzzer must find; otherwise the results of the other targets are
//! worthless.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if bytes.first_chunk() == Some(b"dead") {
        panic!("the planted bug");
    }
});
