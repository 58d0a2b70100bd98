//! Feeds [`underpass_tests::decoders::server_side_apply`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_tests::decoders::server_side_apply(bytes));
