//! Feeds [`underpass_tests::decoders::continue_token`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_tests::decoders::continue_token(bytes));
