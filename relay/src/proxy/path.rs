//! Request paths: normalised once, before routing, and forwarded as they were routed.
//!
//! Pure. Two spellings of one path must not route differently from how the backend reads them (RFC 3986 §6.2.2).

use std::{borrow::Cow, ops::Range};

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathError {
    #[error("the path must begin with `/`")]
    NotAbsolute,
    #[error("the path has a backslash or an encoded one")]
    Backslash,
    #[error("the path has an encoded NUL or other control character")]
    Control,
    #[error("the path has a `%` that is not followed by two hexadecimal digits")]
    BadEscape,
    #[error("the path is encoded twice")]
    EncodedTwice,
    #[error("the path has a dot segment or an empty one with parameters")]
    DotParameters,
    #[error("the path has a dot segment between encoded slashes")]
    EncodedDots,
    #[error("the path has an ASCII character in more bytes than it needs")]
    Overlong,
}

/// The path with unreserved characters decoded, dot segments resolved and slashes merged.
///
/// `%2F` stays as it is and never separates segments. A clean path is returned as it came, without allocation.
///
/// # Errors
/// [`PathError`] for spellings that servers are known to read in different ways.
pub(super) fn normalise(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if is_clean(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path)?;
    resolve(&decoded).map(Cow::Owned)
}

fn is_clean(path: &[u8]) -> bool {
    let suspicious = |b: &u8| matches!(b, b'%' | b'\\' | b';');
    !path.iter().any(suspicious) && !path.windows(2).any(|pair| pair == b"//" || pair == b"/.")
}

/// Decodes what never needs encoding and writes the other escapes in upper case.
fn decode(path: &str) -> Result<String, PathError> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(next) = rest.chars().next() {
        rest = &rest[next.len_utf8()..];
        match next {
            '\\' => return Err(PathError::Backslash),
            '%' => {
                let digits = rest.get(..2).ok_or(PathError::BadEscape)?;
                let byte = escaped(digits)?;
                rest = &rest[2..];
                check_escape(byte, rest)?;
                if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                    decoded.push(char::from(byte));
                } else {
                    decoded.push('%');
                    decoded.push_str(&digits.to_ascii_uppercase());
                }
            }
            other => decoded.push(other),
        }
    }
    Ok(decoded)
}

fn escaped(digits: &str) -> Result<u8, PathError> {
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(PathError::BadEscape);
    }
    u8::from_str_radix(digits, 16).map_err(|_| PathError::BadEscape)
}

/// An escaped `%` is fine unless what follows would become an escape that matters when it is decoded again.
fn check_escape(byte: u8, rest: &str) -> Result<(), PathError> {
    match byte {
        b'\\' => Err(PathError::Backslash),
        // What lax decoders read as ASCII, as `.` or `/`, begins so (RFC 3629 §3).
        0xc0 | 0xc1 if follows(rest, 0x80..0xc0) => Err(PathError::Overlong),
        0xe0 if follows(rest, 0x80..0xa0) => Err(PathError::Overlong),
        0xf0 if follows(rest, 0x80..0x90) => Err(PathError::Overlong),
        0..0x20 | 0x7f => Err(PathError::Control),
        b'%' => match rest.get(..2).map(str::to_ascii_lowercase).as_deref() {
            Some("2e" | "2f" | "5c" | "00" | "25" | "3b") => Err(PathError::EncodedTwice),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Whether `rest` begins with an escape of one of `bytes`.
fn follows(rest: &str, bytes: Range<u8>) -> bool {
    let digits = rest.strip_prefix('%').and_then(|rest| rest.get(..2));
    digits.is_some_and(|digits| escaped(digits).is_ok_and(|byte| bytes.contains(&byte)))
}

/// Removes dot segments (RFC 3986 §5.2.4) and empty ones; climbing above the root stays at the root.
fn resolve(path: &str) -> Result<String, PathError> {
    let mut segments: Vec<&str> = Vec::new();
    let mut trailing_slash = false;
    for segment in path.split('/').skip(1) {
        trailing_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => {
                if matches!(segment.split(';').next(), Some("" | "." | "..")) {
                    return Err(PathError::DotParameters);
                }
                // A backend that reads `%2F` as a separator would climb out of what was routed.
                if segment.contains("%2F") && segment.split("%2F").any(is_dots) {
                    return Err(PathError::EncodedDots);
                }
                segments.push(segment);
            }
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for segment in &segments {
        resolved.push('/');
        resolved.push_str(segment);
    }
    if trailing_slash || segments.is_empty() {
        resolved.push('/');
    }
    Ok(resolved)
}

fn is_dots(part: &str) -> bool {
    matches!(part.split(';').next(), Some("." | ".."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn equal_paths_become_the_same_text() {
        let check = |path: &str, want: &str| assert_eq!(normalise(path).as_deref(), Ok(want), "{path}");
        check("/", "/");
        check("/a/b", "/a/b");
        check("/a/b/", "/a/b/");
        check("//a///b", "/a/b");
        check("/a/./b/../c", "/a/c");
        check("/a/..", "/");
        check("/a/b/..", "/a/");
        check("/a/.", "/a/");
        check("/../../etc", "/etc");
        check("/%61%2e%2E/x", "/a../x");
        check("/a/%2e%2e/x", "/x");
        check("/.hidden/..x", "/.hidden/..x");
        check("/a%2fb", "/a%2Fb");
        check("/a%20b", "/a%20b");
        check("/a;v=1/b", "/a;v=1/b");
        check("/a%2Fb..%2fc", "/a%2Fb..%2Fc");
        check("/%c3%a9%e2%82%ac%f0%9f%98%80", "/%C3%A9%E2%82%AC%F0%9F%98%80");
        check("/%c0", "/%C0");
        check("/100%25ab", "/100%25ab");
    }

    #[test]
    fn dangerous_spellings_are_refused() {
        let check = |path: &str, want: PathError| assert_eq!(normalise(path), Err(want), "{path}");
        check("", PathError::NotAbsolute);
        check("*", PathError::NotAbsolute);
        check("/a\\b", PathError::Backslash);
        check("/a%5Cb", PathError::Backslash);
        check("/a%00", PathError::Control);
        check("/a%0d%0a", PathError::Control);
        check("/a%", PathError::BadEscape);
        check("/a%2", PathError::BadEscape);
        check("/a%zz", PathError::BadEscape);
        check("/a%+1", PathError::BadEscape);
        check("/%252e%252e/x", PathError::EncodedTwice);
        check("/a/..;/b", PathError::DotParameters);
        check("/a/%2e.;x/b", PathError::DotParameters);
        check("/;/a", PathError::DotParameters);
        check("/a/;x=1/b", PathError::DotParameters);
        check("/a/x%2f..%2fb", PathError::EncodedDots);
        check("/a/..%2Fb", PathError::EncodedDots);
        check("/a/x%2F%2e%2e;y", PathError::EncodedDots);
        check("/%c0%ae%c0%ae/b", PathError::Overlong);
        check("/a%C1%9cb", PathError::Overlong);
        check("/%e0%80%ae/b", PathError::Overlong);
        check("/%f0%80%80%ae/b", PathError::Overlong);
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_becomes_a_fixed_point(path in "/[a-b./%\\\\;25eEfFé]{0,20}") {
            if let Ok(once) = normalise(&path) {
                prop_assert!(once.starts_with('/'));
                prop_assert!(!once.contains("//") && !once.split('/').any(|segment| segment == ".." || segment == "."));
                let twice = normalise(&once);
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
            }
        }
    }
}
