//! Feeds [`underpass_tests::decoders::http_connect`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_tests::decoders::http_connect(bytes));
