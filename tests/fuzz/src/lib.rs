//! What tests share that make their inputs by chance: how many cases there are and which, corpora beside the
//! tests, and bytes as text that a person can read and write.
//!
//! In: a strategy and what has to hold. Out: a panic with the smallest input found that breaks it, in the
//! words of a corpus: to be put into a file there. It calls nothing of ours, and reads the custom resource.

pub mod manifests;
mod protobuf;
pub mod schema;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::{Just, any, prop};
use proptest::prop_oneof;
use proptest::sample::{Index, select};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

pub use protobuf::messages;

/// How long each test goes on, instead of its constant number of cases. In seconds.
pub const SECONDS: &str = "SYNOD_FUZZ_SECONDS";
/// A number that other cases follow from. Without it they are the same each time; with [`SECONDS`], others
/// each time.
pub const SEED: &str = "SYNOD_FUZZ_SEED";

/// Steps towards a smaller input, and the time for them.
const SHRINKS: u32 = 4_000;
const SHRINK_TIME: Duration = Duration::from_secs(60);

/// Tries so many cases. `show` writes one as its corpus has them.
///
/// # Panics
///
/// If one fails, with the smallest that does.
pub fn fuzz<S: Strategy>(
    cases: u32,
    strategy: &S,
    show: impl Fn(&S::Value) -> String,
    test: impl Fn(S::Value) -> Result<(), String>,
) {
    let seconds: Option<u64> = number(SECONDS);
    let begun = Instant::now();
    let mut seed = number(SEED).unwrap_or_else(|| match seconds {
        None => 1,
        Some(_) => std::collections::hash_map::RandomState::new().seed(),
    });
    loop {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config {
            cases,
            failure_persistence: None,
            max_shrink_iters: SHRINKS,
            max_shrink_time: SHRINK_TIME.as_millis() as u32,
            ..Config::default()
        };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let ran = TestRunner::new_with_rng(config, rng)
            .run(strategy, |value| test(value).map_err(TestCaseError::fail));
        match ran {
            Ok(()) => {}
            Err(TestError::Fail(why, value)) => {
                panic!(
                    "{why}\n\nseed {seed}; as a file of the corpus:\n\n{}",
                    show(&value)
                )
            }
            Err(TestError::Abort(why)) => panic!("no inputs: {why}"),
        }
        if seconds.is_none_or(|seconds| begun.elapsed() >= Duration::from_secs(seconds)) {
            return;
        }
        seed = seed.wrapping_add(1);
    }
}

trait Seed {
    fn seed(&self) -> u64;
}

impl Seed for std::collections::hash_map::RandomState {
    fn seed(&self) -> u64 {
        std::hash::BuildHasher::hash_one(self, 0)
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {value}")),
    )
}

/// A change of bytes.
#[derive(Clone, Debug)]
enum Change {
    Flip(u8),
    Put(Vec<u8>),
    Insert(Vec<u8>),
    Remove(u8),
    Repeat(u8),
    Splice(Vec<u8>, Index),
    End,
}

/// One of these with a few changes, as messages and files that are damaged or lie have them: also
/// numbers that are as large as they can be, and pieces of the others.
pub fn changed(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let pieces = vec![
        vec![0],
        vec![1],
        vec![0x7f],
        vec![0x80],
        vec![0xff],
        vec![0xff; 4],
        vec![0xff; 8],
        // The greatest numbers as protobuf writes them, and one that is too long.
        vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        vec![0xff, 0xff, 0xff, 0xff, 0x0f],
        vec![0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40],
        vec![0xff; 11],
        vec![0; 16],
    ];
    let length = || 1..24_u8;
    let change = prop_oneof![
        3 => (0..8_u8).prop_map(Change::Flip),
        3 => select(pieces.clone()).prop_map(Change::Put),
        2 => select(pieces).prop_map(Change::Insert),
        2 => length().prop_map(Change::Remove),
        1 => length().prop_map(Change::Repeat),
        1 => (select(seeds.clone()), any::<Index>()).prop_map(|(other, at)| Change::Splice(other, at)),
        1 => Just(Change::End),
    ];
    (
        select(seeds),
        prop::collection::vec((any::<Index>(), change), 0..4),
    )
        .prop_map(|(mut bytes, changes)| {
            for (at, change) in changes {
                let at = at.index(bytes.len() + 1);
                change.apply(&mut bytes, at);
            }
            bytes
        })
}

impl Change {
    fn apply(self, bytes: &mut Vec<u8>, at: usize) {
        let end = |bytes: &[u8], length: u8| (at + usize::from(length)).min(bytes.len());
        match self {
            Self::Flip(bit) => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Put(piece) => {
                let end = end(bytes, piece.len() as u8);
                bytes.splice(at..end, piece);
            }
            Self::Insert(piece) => drop(bytes.splice(at..at, piece)),
            Self::Remove(length) => drop(bytes.drain(at..end(bytes, length))),
            Self::Repeat(length) => {
                let again = bytes[at..end(bytes, length)].to_vec();
                bytes.splice(at..at, again);
            }
            Self::Splice(other, from) => {
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from.index(other.len() + 1)..]);
            }
            Self::End => bytes.truncate(at),
        }
    }
}

/// The files of a corpus by name, in order.
///
/// # Panics
///
/// If there is none.
pub fn corpus(folder: impl AsRef<Path>) -> Vec<(String, String)> {
    let folder = folder.as_ref();
    let files =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files
        .map(|file| {
            let path = file.expect("a folder can be read").path();
            let text = std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let name = path
                .file_name()
                .expect("it has a name")
                .to_string_lossy()
                .into_owned();
            (name, text)
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// Bytes as text: what is printed in ASCII stays, all else is `\r`, `\n`, `\t`, `\\` or `\xHH`. A new line
/// begins behind each `\n`, and after many bytes without one.
pub fn write_bytes(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut width = 0;
    let mut left = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if left > 0 {
            left -= 1;
            continue;
        }
        let same = bytes[at..].iter().take_while(|it| *it == byte).count();
        if same >= 200 && byte.is_ascii_alphanumeric() {
            writeln!(text, "\\*{same}({})", char::from(*byte)).expect("a string takes all");
            (left, width) = (same - 1, 0);
            continue;
        }
        let before = text.len();
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\\' => text.push_str("\\\\"),
            // At the ends of lines nobody sees a space.
            b' ' if width == 0 || at + 1 == bytes.len() => text.push_str("\\x20"),
            b'#' if width == 0 => text.push_str("\\x23"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}").expect("a string takes all"),
        }
        width += text.len() - before;
        if *byte == b'\n' || (width >= 100 && bytes.get(at + 1) != Some(&b' ')) {
            text.push('\n');
            width = 0;
        }
    }
    text
}

/// The bytes of such a text. Ends of lines mean nothing, lines that begin with `#` are comments, and
/// `\*N(..)` is what is in it N times.
///
/// # Panics
///
/// If it is none.
pub fn read_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut rest = line.as_bytes();
        while let [first, tail @ ..] = rest {
            rest = tail;
            if *first != b'\\' {
                bytes.push(*first);
                continue;
            }
            let (byte, used) = match rest {
                [b'r', ..] => (b'\r', 1),
                [b'n', ..] => (b'\n', 1),
                [b't', ..] => (b'\t', 1),
                [b'\\', ..] => (b'\\', 1),
                [b'x', high, low, ..] => {
                    let hex = [*high, *low];
                    let hex = std::str::from_utf8(&hex).ok();
                    let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
                    (byte.unwrap_or_else(|| panic!("no such byte: {line}")), 3)
                }
                [b'*', ..] => {
                    let (times, inside, behind) = repeated(&rest[1..])
                        .unwrap_or_else(|| panic!("`\\*N(..)` is meant: {line}"));
                    bytes.extend(read_bytes(inside).repeat(times));
                    rest = behind;
                    continue;
                }
                _ => panic!("no such escape: {line}"),
            };
            bytes.push(byte);
            rest = &rest[used..];
        }
    }
    bytes
}

fn repeated(text: &[u8]) -> Option<(usize, &str, &[u8])> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().position(|byte| *byte == b')')?;
    let times = std::str::from_utf8(&text[..open]).ok()?.parse().ok()?;
    let inside = std::str::from_utf8(text.get(open + 1..close)?).ok()?;
    Some((times, inside, &text[close + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_back_as_written() {
        let all: Vec<u8> = (0..=u8::MAX).chain(0..=u8::MAX).collect();
        for bytes in [
            &all[..],
            b"",
            b" a # \n# b\n \\",
            b"GET / HTTP/1.1\r\n\r\n ",
            &[b' '; 300],
            &[b'x'; 300],
        ] {
            let text = write_bytes(bytes);
            assert_eq!(read_bytes(&text), bytes, "{text}");
        }
        assert_eq!(read_bytes("# ab\na\\*3(b\\n)c"), b"ab\nb\nb\nc");
    }

    #[test]
    fn the_smallest_that_fails_is_shown() {
        let failed = std::panic::catch_unwind(|| {
            let small = |it: u32| {
                if it < 17 {
                    Ok(())
                } else {
                    Err("it is large".to_owned())
                }
            };
            fuzz(1_000, &(0..1_000_u32), u32::to_string, small);
        });
        let why = *failed.unwrap_err().downcast::<String>().unwrap();
        assert!(
            why.contains("it is large") && why.ends_with("\n\n17"),
            "{why}"
        );
    }
}
