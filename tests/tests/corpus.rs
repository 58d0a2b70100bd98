//! Replays `corpus/`: every kept text through its decoder, and seeded mutations of each.
//!
//! What a fuzzer finds is added there, under the name of its target (`fuzz/`). `CORPUS_SEED` chooses other mutations.
#![expect(clippy::unwrap_used, reason = "all of this is test code")]

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use underpass_tests::decoders::{ALL, Decoder};

/// How many mutations of each text are tried: some seconds in all.
const MUTATIONS: u64 = 200;
const SEED: u64 = 20_261_121;
/// What tends to mean something to one decoder or another.
const WORDS: &[&str] = &[
    "null",
    "{}",
    "[]",
    "\"\"",
    "0",
    "-1",
    "1e308",
    "18446744073709551616",
    "\n",
    "\\u0000",
    "\u{fffd}",
    "\"$patch\":\"replace\"",
    "\"$patch\":\"delete\"",
    "\"$retainKeys\":[]",
    "\"$setElementOrder/containers\":[]",
    "\"op\":\"copy\"",
    "\"path\":\"\"",
    "/-",
    "~1",
    "\"managedFields\":[{}]",
    "\"f:spec\":{}",
    "k:{\\\"name\\\":\\\"a\\\"}",
    "v:1",
    ".",
    "&a",
    "*a",
    "<<: *a",
    "---\n",
    "...\n",
    "!!str ",
    "? ",
    "|\n",
];

/// The texts of each decoder, by file name.
fn corpus(name: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = folder().join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let texts = files.map(|file| {
        let file = file.unwrap();
        (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())
    });
    texts.collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn seed() -> u64 {
    std::env::var("CORPUS_SEED").map_or(SEED, |seed| seed.parse().expect("CORPUS_SEED is a number"))
}

fn run(decoder: Decoder, text: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| decoder(text))).is_err() {
        panic!("{what}: keep this text in the corpus: {}", text.escape_ascii());
    }
}

#[test]
fn every_kept_text_passes_its_decoder() {
    for (name, decoder) in ALL {
        for (file, text) in corpus(name) {
            run(*decoder, &text, &format!("corpus/{name}/{file}"));
        }
    }
}

#[test]
fn mutations_of_the_kept_texts_pass_their_decoder() {
    let seed = seed();
    for (name, decoder) in ALL {
        let texts = corpus(name);
        let all: Vec<&[u8]> = texts.values().map(Vec::as_slice).collect();
        for (file, text) in &texts {
            for number in 0..MUTATIONS {
                let mutated = mutate(text, &all, &mut Chance(seed ^ number << 32 ^ text.len() as u64));
                run(*decoder, &mutated, &format!("corpus/{name}/{file}, mutation {number} of seed {seed}"));
            }
        }
    }
}

#[test]
fn every_folder_of_the_corpus_and_every_fuzz_target_has_its_decoder() {
    let mut folders: Vec<_> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    let mut names: Vec<_> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.sort();
    assert_eq!(folders, names);
    let manifest = fs::read_to_string(folder().with_file_name("fuzz").join("Cargo.toml")).unwrap();
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml has no target {name}");
    }
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Below `end`; 0 when that is 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap()
    }
}

fn mutate(text: &[u8], all: &[&[u8]], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = text.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let end = (at + 1 + chance.below(16)).min(bytes.len());
        match chance.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let repeated = bytes[at..end].repeat(1 + chance.below(8));
                bytes.splice(at..at, repeated);
            }
            3 => {
                let other = all[chance.below(all.len())];
                let from = chance.below(other.len());
                let to = (from + chance.below(64)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            _ => {
                let word = WORDS[chance.below(WORDS.len())];
                bytes.splice(at..at, word.bytes());
            }
        }
    }
    bytes
}
