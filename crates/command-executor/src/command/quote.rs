//! Turns an argv into text that a POSIX shell turns back into the same argv.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Words that a shell doesn't take for a program's name (POSIX 2.4, with those of bash).
const RESERVED: [&[u8]; 20] = [
    b"if",
    b"then",
    b"else",
    b"elif",
    b"fi",
    b"do",
    b"done",
    b"case",
    b"esac",
    b"while",
    b"until",
    b"for",
    b"in",
    b"select",
    b"function",
    b"time",
    b"coproc",
    b"namespace",
    b"typeset",
    b"nameref",
];

/// Why an argv has no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// No argument can hold a NUL byte: they end there.
    #[error("argument {position} holds a NUL byte, which no program can be given")]
    Nul {
        /// Which one; the program is 0.
        position: usize,
    },
}

/// The argv as one line for `sh -c`: the shell runs exactly it, whatever bytes it holds.
///
/// Plain words stay as they are, others are put in single quotes. An empty argv is an empty line.
///
/// # Errors
/// [`QuoteError::Nul`] rather than an argument cut short.
pub fn sh<A: AsRef<OsStr>>(argv: impl IntoIterator<Item = A>) -> Result<OsString, QuoteError> {
    let mut line = Vec::new();
    for (position, word) in argv.into_iter().enumerate() {
        let word = word.as_ref().as_bytes();
        if memchr::memchr(0, word).is_some() {
            return Err(QuoteError::Nul { position });
        }
        if position > 0 {
            line.push(b' ');
        }
        if is_plain(word) && !RESERVED.contains(&word) {
            line.extend_from_slice(word);
        } else {
            quote(word, &mut line);
        }
    }
    Ok(OsString::from_vec(line))
}

/// No byte that any shell could see more in. `=` isn't plain: the first word would be an assignment.
fn is_plain(word: &[u8]) -> bool {
    let plain = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b':' | b',' | b'@' | b'+')
    };
    !word.is_empty() && word.iter().all(plain)
}

fn quote(word: &[u8], line: &mut Vec<u8>) {
    line.push(b'\'');
    for &byte in word {
        match byte {
            // Ends the quotes, adds one, begins again.
            b'\'' => line.extend_from_slice(br"'\''"),
            byte => line.push(byte),
        }
    }
    line.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(argv: &[&str]) -> String {
        sh(argv).unwrap().into_string().unwrap()
    }

    #[test]
    fn plain_words_stay_readable() {
        assert_eq!(text(&["ls", "-l", "/tmp/a.b"]), "ls -l /tmp/a.b");
        assert_eq!(text(&["A=b", "", "it's", "a b", "if"]), r"'A=b' '' 'it'\''s' 'a b' 'if'");
        assert_eq!(text(&[]), "");
        assert_eq!(sh(["a", "b\0c"]), Err(QuoteError::Nul { position: 1 }));
    }

    /// What a real shell makes of it.
    fn run(line: &OsStr) -> Vec<u8> {
        let output = std::process::Command::new("sh").arg("-c").arg(line).output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", line.display());
        output.stdout
    }

    fn words() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let byte = prop_oneof![
            3 => 1u8..=255,
            2 => prop::sample::select(b"'\"\\$`!*?[]{}()<>|&;~# \t\n=%^-".to_vec()),
        ];
        prop::collection::vec(prop::collection::vec(byte, 0..24), 1..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_real_shell_gets_every_argument_as_it_was(words in words(), depth in 0..3usize) {
            let mut argv: Vec<OsString> = vec!["printf".into(), r"%s\0".into()];
            argv.extend(words.iter().cloned().map(OsString::from_vec));
            let mut line = sh(&argv).unwrap();
            for _ in 0..depth {
                line = sh([OsStr::new("sh"), OsStr::new("-c"), &line]).unwrap();
            }
            let mut expected = Vec::new();
            for word in &words {
                expected.extend_from_slice(word);
                expected.push(0);
            }
            prop_assert_eq!(run(&line), expected);
        }

        #[test]
        fn a_word_of_letters_is_run_as_a_program(name in "[a-z]{1,9}") {
            // A reserved word would be a syntax error, which is 2; a program that isn't there is 127.
            let line = sh([format!("{name}zzq")]).unwrap();
            let status = std::process::Command::new("sh").arg("-c").arg(line).output().unwrap().status;
            prop_assert_eq!(status.code(), Some(127));
        }
    }

    #[test]
    fn reserved_words_are_names_of_programs() {
        for word in RESERVED {
            let line = sh([OsStr::from_bytes(word)]).unwrap();
            let output =
                std::process::Command::new("sh").env("PATH", "/nonexistent").arg("-c").arg(&line).output();
            // `typeset` and others are builtins of some shells; none is a syntax error in the line.
            let Ok(output) = output else { continue };
            let text = String::from_utf8_lossy(&output.stderr).to_lowercase();
            assert!(!text.contains("syntax"), "{}: {text}", line.display());
        }
    }
}
