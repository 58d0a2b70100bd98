//! Feeds [`underpass_tests::decoders::fields_v1`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_tests::decoders::fields_v1(bytes));
