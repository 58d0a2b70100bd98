//! Feeds [`underpass_tests::decoders::http1_answer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_tests::decoders::http1_answer(bytes));
