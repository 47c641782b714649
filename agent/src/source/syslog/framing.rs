//! Where messages begin and end in a TCP stream (RFC 6587): `LENGTH <PRI>MESSAGE`, or a line.

use memchr::memchr;

use crate::line_ends::INNER_LINE_END;

/// Digits of the length before a counted message.
const LENGTH_DIGITS_MAX: usize = 9;

/// Finds messages in a TCP stream.
#[derive(Debug)]
pub(super) struct Framing {
    pending: Vec<u8>,
    limit: usize,
    /// Bytes of a message beyond the limit that are still to come: counted, or up to a line end.
    skip: Skip,
    /// Bytes beyond the limit so far; whoever counts them sets it back.
    pub(super) cut: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Skip {
    Nothing,
    Bytes(u64),
    Line,
}

impl Framing {
    pub(super) fn new(limit: usize) -> Self {
        Self { pending: vec![], limit, skip: Skip::Nothing, cut: 0 }
    }

    /// Takes what came and puts out whole messages.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut at = 0;
        while let Some(taken) = self.step(&pending[at..], out) {
            at += taken;
        }
        self.pending = pending[at..].to_vec();
    }

    /// The connection ended: a line without its end counts, a counted message that is cut does too.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) {
        let pending = std::mem::take(&mut self.pending);
        if self.skip == Skip::Nothing {
            let begin = match begins(&pending) {
                Begins::Counted { begin, .. } => begin,
                Begins::Line | Begins::Unclear => 0,
            };
            add_message(out, &pending[begin..]);
        }
    }

    /// Takes one message or a part to skip. `None`: more must come first.
    fn step(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        if bytes.is_empty() {
            return None;
        }
        match self.skip {
            Skip::Bytes(left) => {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.cut += taken as u64;
                let left = left - taken as u64;
                self.skip = if left == 0 { Skip::Nothing } else { Skip::Bytes(left) };
                return Some(taken);
            }
            Skip::Line => {
                let end = memchr(b'\n', bytes);
                self.cut += end.unwrap_or(bytes.len()) as u64;
                if end.is_some() {
                    self.skip = Skip::Nothing;
                }
                return Some(end.map_or(bytes.len(), |end| end + 1));
            }
            Skip::Nothing => {}
        }
        match begins(bytes) {
            Begins::Counted { length, begin } => self.counted_message(bytes, length, begin, out),
            Begins::Unclear => None,
            Begins::Line => self.line(bytes, out),
        }
    }

    fn counted_message(
        &mut self,
        bytes: &[u8],
        length: usize,
        begin: usize,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let kept = length.min(self.limit);
        let message = bytes.get(begin..begin + kept)?;
        add_message(out, message);
        if length > kept {
            self.skip = Skip::Bytes((length - kept) as u64);
        }
        Some(begin + kept)
    }

    fn line(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        match memchr(b'\n', &bytes[..bytes.len().min(self.limit + 1)]) {
            Some(end) => {
                add_message(out, &bytes[..end]);
                Some(end + 1)
            }
            None if bytes.len() > self.limit => {
                add_message(out, &bytes[..self.limit]);
                self.skip = Skip::Line;
                Some(self.limit)
            }
            None => None,
        }
    }
}

/// What a message in a TCP stream begins with.
#[derive(Debug, PartialEq, Eq)]
enum Begins {
    /// Its length, and where it begins itself.
    Counted { length: usize, begin: usize },
    /// It ends with its line.
    Line,
    /// So far both are possible.
    Unclear,
}

/// A length is digits and a space before a priority: a line may begin with a number too, such as a year.
fn begins(bytes: &[u8]) -> Begins {
    let digits = bytes.iter().take(LENGTH_DIGITS_MAX + 1).take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=LENGTH_DIGITS_MAX).contains(&digits) || bytes[0] == b'0' {
        return Begins::Line;
    }
    match (bytes.get(digits), bytes.get(digits + 1)) {
        (None, _) | (Some(b' '), None) => Begins::Unclear,
        (Some(b' '), Some(b'<')) => {
            // At most nine digits: they fit.
            let length = bytes[..digits].iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
            Begins::Counted { length, begin: digits + 1 }
        }
        _ => Begins::Line,
    }
}

/// One message, one line: its inner line ends get their stand-in.
pub(super) fn add_message(piece: &mut Vec<u8>, message: &[u8]) {
    let message = message.trim_ascii_end();
    let message = message.strip_suffix(b"\0").unwrap_or(message);
    if message.is_empty() {
        return;
    }
    piece.extend(message.iter().map(|byte| if *byte == b'\n' { INNER_LINE_END } else { *byte }));
    piece.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_in_both_framings_however_the_stream_is_cut() {
        let stream = b"<1>first\n13 <2>second one<3>third\r\n20 <4>0123456789abcdefX<5>last";
        for piece in 1..stream.len() {
            let (mut framing, mut out) = (Framing::new(16), Vec::new());
            stream.chunks(piece).for_each(|part| framing.push(part, &mut out));
            framing.end(&mut out);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text, "<1>first\n<2>second one\n<3>third\n<4>0123456789abc\n<5>last\n", "{piece}");
            assert_eq!(framing.cut, 4, "{piece}");
        }
    }

    #[test]
    fn a_line_that_begins_with_a_number_is_a_line() {
        let stream = b"2026 was the year\n<1>next\n7 <2>seven<3>last\n12";
        for piece in 1..stream.len() {
            let (mut framing, mut out) = (Framing::new(64), Vec::new());
            stream.chunks(piece).for_each(|part| framing.push(part, &mut out));
            framing.end(&mut out);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text, "2026 was the year\n<1>next\n<2>seve\nn<3>last\n12\n", "{piece}");
        }
    }

    #[test]
    fn a_counted_message_keeps_its_line_ends_however_the_stream_is_cut() {
        let stream = b"14 <1>one\ntwo\r\nx\n<2>line\n7 <3>a\n\nb";
        for piece in 1..stream.len() {
            let (mut framing, mut out) = (Framing::new(64), Vec::new());
            stream.chunks(piece).for_each(|part| framing.push(part, &mut out));
            framing.end(&mut out);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text, "<1>one\u{1e}two\r\u{1e}x\n<2>line\n<3>a\u{1e}\u{1e}b\n", "{piece}");
        }
    }
}
