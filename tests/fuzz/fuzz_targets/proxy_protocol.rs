//! Feeds [`underpass_tests::decoders::proxy_protocol`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_tests::decoders::proxy_protocol(bytes));
