//! Feeds [`underpass_tests::decoders::offload`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_tests::decoders::offload(bytes));
