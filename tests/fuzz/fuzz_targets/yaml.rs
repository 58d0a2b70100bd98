//! Feeds [`underpass_tests::decoders::yaml`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_tests::decoders::yaml(bytes));
