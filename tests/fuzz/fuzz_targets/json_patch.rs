//! Feeds [`underpass_tests::decoders::json_patch`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_tests::decoders::json_patch(bytes));
