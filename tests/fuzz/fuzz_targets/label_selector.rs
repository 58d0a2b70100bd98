//! Feeds [`underpass_tests::decoders::label_selector`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_tests::decoders::label_selector(bytes));
