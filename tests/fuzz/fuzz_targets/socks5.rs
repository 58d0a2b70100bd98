//! Feeds [`underpass_tests::decoders::socks5`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_tests::decoders::socks5(bytes));
