//! Feeds [`underpass_tests::decoders::bearer_token`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_tests::decoders::bearer_token(bytes));
