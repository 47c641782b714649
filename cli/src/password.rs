//! Passwords and tokens from where they are safe: a terminal without echo, a file, stdin. Never an argument.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use aap_client::{Secret, SecretRef};
use aap_types::{ExitCode, Problem};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use crate::failure::Failure;

/// What stands for stdin where a file is named.
pub(crate) const STDIN: &str = "-";
/// Longest secret from stdin: a password or a token, not a file that somebody piped by mistake.
const SECRET_BYTES_MAX: u64 = 64 << 10;

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const ERASE_LINE: u8 = 0x15;
const BACKSPACE: [u8; 2] = [0x08, 0x7f];

/// The secret in a file; without the line end at its end.
///
/// # Errors
/// `auth.secret_unreadable` (2).
pub(crate) fn from_file(path: &str) -> Result<Secret, Problem> {
    let what = if path == STDIN { "stdin".to_owned() } else { format!("`{path}`") };
    let unreadable = || {
        Problem::new("auth.secret_unreadable", ExitCode::Usage, format!("no secret can be read from {what}"))
    };
    let secret = match path {
        STDIN => from_stdin()
            .map_err(|error| unreadable().caused_by(&error).hint("a password or a token, in one line"))?,
        path => SecretRef::File(path.into()).read().map_err(|error| {
            unreadable()
                .caused_by(&error)
                .hint_command("look whether it is there and yours", format!("ls -l {path}"))
        })?,
    };
    if secret.reveal().is_empty() {
        return Err(unreadable().cause("it is empty").hint("a password or a token, in one line"));
    }
    Ok(secret)
}

fn from_stdin() -> io::Result<Secret> {
    let mut text = String::new();
    io::stdin().lock().take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 64 KiB"));
    }
    let end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(end);
    Ok(Secret::from(text))
}

/// Asks for a secret on the terminal, without showing what is typed. `instead` is the option that reads it from a file.
///
/// # Errors
/// `auth.password_needed` (2) where this is no terminal; [`Failure::Interrupted`].
pub(crate) fn ask(prompt: &str, instead: &str) -> Result<Secret, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let message = "a password is needed, and this is not a terminal";
        return Err(Problem::new("auth.password_needed", ExitCode::Usage, message)
            .hint(format!("{instead} FILE reads it from a file, {instead} - from stdin"))
            .into());
    }
    let failed = |error: io::Error| {
        Problem::new("auth.password_needed", ExitCode::Usage, "no password can be read from the terminal")
            .caused_by(&error)
            .hint(format!("{instead} FILE reads it from a file"))
    };
    let mut stderr = io::stderr().lock();
    write!(stderr, "{prompt}: ").and_then(|()| stderr.flush()).map_err(failed)?;
    let typed = Silence::begin().map_err(|error| failed(error.into())).and_then(|silence| {
        let typed = read_line(io::stdin().lock()).map_err(failed);
        drop(silence);
        typed
    });
    // The line end that was typed was not shown either.
    writeln!(stderr).map_err(failed)?;
    typed?.ok_or(Failure::Interrupted)
}

/// A terminal that shows nothing and sends no signals, until it is dropped: an interrupt must not leave it so.
struct Silence {
    before: Termios,
}

impl Silence {
    fn begin() -> rustix::io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self { before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // Nothing is left to try where this fails: the terminal has gone.
        let _gone = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

/// What is typed up to the end of the line, with what is taken back taken back; `None`: it was interrupted.
fn read_line(from: impl BufRead) -> io::Result<Option<Secret>> {
    let mut typed = Vec::new();
    for byte in from.take(SECRET_BYTES_MAX).bytes() {
        match byte? {
            INTERRUPT => return Ok(None),
            b'\n' | b'\r' => break,
            END if typed.is_empty() => return Ok(None),
            END => break,
            ERASE_LINE => typed.clear(),
            byte if BACKSPACE.contains(&byte) => take_back(&mut typed),
            byte => typed.push(byte),
        }
    }
    let text = String::from_utf8(typed)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))?;
    Ok(Some(Secret::from(text)))
}

/// The last letter goes, however many bytes it has.
fn take_back(typed: &mut Vec<u8>) {
    while let Some(byte) = typed.pop()
        && byte & 0b1100_0000 == 0b1000_0000
    {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_read_as_people_type_it() {
        let check = |typed: &str, expected: Option<&str>| {
            let read = read_line(typed.as_bytes()).unwrap();
            assert_eq!(read.as_ref().map(Secret::reveal), expected, "{typed:?}");
        };
        check("secret\nmore", Some("secret"));
        check("secreT\x7ft\r", Some("secret"));
        check("äö\x7f\x08ü\n", Some("ü"));
        check("wrong\x15right\n", Some("right"));
        check("\x7f\x7fx\n", Some("x"));
        check("half\x03\n", None);
        check("\x04", None);
        check("all\x04", Some("all"));
        check("", Some(""));
    }

    #[test]
    fn a_secret_comes_from_a_file_without_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "s3cret word\n").unwrap();
        assert_eq!(from_file(path.to_str().unwrap()).unwrap().reveal(), "s3cret word");
        std::fs::write(&path, "\n").unwrap();
        for wrong in [path.to_str().unwrap(), "/nowhere/password"] {
            let problem = from_file(wrong).unwrap_err();
            assert_eq!(
                (problem.code.as_str(), problem.hints.is_empty()),
                ("auth.secret_unreadable", false),
                "{wrong}"
            );
        }
    }
}
