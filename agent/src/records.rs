//! Where records end in the bytes of a followed file: lines, long lines, records of several lines.

use memchr::{memchr, memchr_iter, memrchr};
use regex::bytes::Regex;

use crate::config::MultilineSpec;
use crate::line_ends::INNER_LINE_END;

/// What is known of what follows the bytes at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// More may come at any moment: take whole records only.
    Open,
    /// The record has been open for too long while more came: take what are whole lines at least.
    Lines,
    /// Nothing follows for now: take what is there as it is.
    Last,
}

/// How lines make records.
#[derive(Debug)]
pub struct Rules {
    multiline: Option<Multiline>,
    record_bytes_max: usize,
}

#[derive(Debug)]
enum Multiline {
    Start(Regex),
    Continue(Regex),
}

/// What to do with the beginning of the bytes at hand.
#[derive(Debug, PartialEq, Eq)]
pub enum Cut<'a> {
    /// Decode these: whole records, exactly as they stand.
    Whole(&'a [u8]),
    /// Decode these instead of the first `consumed` bytes, of which `cut` were beyond the limit.
    Rewritten {
        /// What to decode.
        records: Vec<u8>,
        /// Bytes of input they stand for.
        consumed: usize,
        /// Bytes that were cut off.
        cut: u64,
        /// The input continues in the middle of a line that is to be skipped to its end.
        skipping: bool,
    },
    /// Nothing to decode in the first `consumed` bytes: the rest of a line that was too long.
    Skipped {
        /// Bytes to pass over.
        consumed: usize,
        /// How many of them belong to the line.
        cut: u64,
        /// Its end has not come yet.
        skipping: bool,
    },
    /// No whole record yet.
    More,
}

impl Rules {
    /// The rules of a source.
    pub fn new(multiline: Option<&MultilineSpec>, record_bytes_max: usize) -> Result<Self, regex::Error> {
        let multiline = match multiline.map(|rule| (&rule.start, &rule.r#continue)) {
            Some((Some(pattern), _)) => Some(Multiline::Start(Regex::new(pattern)?)),
            Some((None, Some(pattern))) => Some(Multiline::Continue(Regex::new(pattern)?)),
            _ => None,
        };
        Ok(Self { multiline, record_bytes_max })
    }

    /// Whether a record may have several lines.
    pub fn joins_lines(&self) -> bool {
        self.multiline.is_some()
    }

    /// Longest record.
    pub fn record_bytes_max(&self) -> usize {
        self.record_bytes_max
    }

    /// [`Self::cut_with`] for what is read in one go: `last` says that nothing follows.
    pub fn cut<'a>(
        &self,
        bytes: &'a [u8],
        skipping: bool,
        last: bool,
        boundary: impl Fn(&[u8]) -> usize,
    ) -> Cut<'a> {
        let ending = if last { Ending::Last } else { Ending::Open };
        self.cut_with(bytes, skipping, ending, INNER_LINE_END, boundary)
    }

    /// Cuts the next records off `bytes`, which begin with a record, or inside of a line that is `skipping`.
    /// `boundary` finds the end of the last whole record by the rules of the format; `join` stands between the lines
    /// of one record.
    pub fn cut_with<'a>(
        &self,
        bytes: &'a [u8],
        skipping: bool,
        ending: Ending,
        join: u8,
        boundary: impl Fn(&[u8]) -> usize,
    ) -> Cut<'a> {
        if bytes.is_empty() {
            return Cut::More;
        }
        if skipping {
            return skip(bytes);
        }
        match &self.multiline {
            Some(rule) => self.cut_multiline(rule, bytes, ending == Ending::Last, join),
            None => self.cut_lines(bytes, ending, boundary),
        }
    }

    fn cut_lines<'a>(&self, bytes: &'a [u8], ending: Ending, boundary: impl Fn(&[u8]) -> usize) -> Cut<'a> {
        let max = self.record_bytes_max;
        let mut end = boundary(bytes);
        if end == 0 {
            let is_full = bytes.len() >= max;
            if ending == Ending::Last && bytes.len() <= max {
                return Cut::Whole(bytes);
            }
            if ending == Ending::Open && !is_full {
                return Cut::More;
            }
            // The records of the format do not end; lines do.
            end = memrchr(b'\n', &bytes[..bytes.len().min(max + 1)]).map_or(0, |last| last + 1);
            if end == 0 && !is_full {
                return Cut::More;
            }
        }
        // Only where a chunk is larger than the limit can one of its lines be.
        if end > max || end == 0 {
            return self.cut_long(bytes, end);
        }
        Cut::Whole(&bytes[..end])
    }

    /// Takes the lines before the first one that is too long; then that one, cut.
    fn cut_long<'a>(&self, bytes: &'a [u8], end: usize) -> Cut<'a> {
        let max = self.record_bytes_max;
        let mut start = 0;
        for newline in memchr_iter(b'\n', &bytes[..end]) {
            if newline - start > max {
                break;
            }
            start = newline + 1;
        }
        if start > 0 {
            return Cut::Whole(&bytes[..start]);
        }
        // Room for the line end that is put in place of the rest. A line of exactly the limit is not cut.
        let kept = max.min(bytes.len());
        if bytes.get(kept) == Some(&b'\n') {
            return Cut::Whole(&bytes[..=kept]);
        }
        let mut records = bytes[..kept].to_vec();
        records.push(b'\n');
        Cut::Rewritten { records, consumed: kept, cut: 0, skipping: true }
    }

    fn cut_multiline<'a>(&self, rule: &Multiline, bytes: &'a [u8], last: bool, join: u8) -> Cut<'a> {
        let mut records = Vec::with_capacity(bytes.len() + 1);
        // The record that is still open: where it begins in `bytes` and in `records`.
        let (mut open_at, mut open_from) = (0, 0);
        let (mut at, mut cut) = (0, 0_u64);
        let mut begun = false;
        while at < bytes.len() {
            let end = match memchr(b'\n', &bytes[at..]) {
                Some(offset) => at + offset,
                None if last => bytes.len(),
                None => break,
            };
            let line = trim_return(&bytes[at..end]);
            let begins = match rule {
                Multiline::Start(pattern) => pattern.is_match(line),
                Multiline::Continue(pattern) => !pattern.is_match(line),
            };
            if begun && begins {
                records.push(b'\n');
                (open_at, open_from) = (at, records.len());
            } else if begun {
                records.push(join);
            }
            begun = true;
            let room = self.record_bytes_max.saturating_sub(records.len() - open_from);
            records.extend_from_slice(&line[..line.len().min(room)]);
            cut += (line.len() - line.len().min(room)) as u64;
            at = (end + 1).min(bytes.len());
        }
        if last && begun {
            records.push(b'\n');
            return Cut::Rewritten { records, consumed: at, cut, skipping: false };
        }
        // A record beyond the limit is closed, or it would grow for ever.
        if open_at == 0 && bytes.len() >= self.record_bytes_max && begun {
            records.push(b'\n');
            return Cut::Rewritten { records, consumed: at, cut, skipping: false };
        }
        if open_at == 0 && bytes.len() >= self.record_bytes_max {
            return self.cut_long(bytes, 0);
        }
        if open_at == 0 {
            return Cut::More;
        }
        records.truncate(open_from);
        Cut::Rewritten { records, consumed: open_at, cut, skipping: false }
    }
}

fn skip(bytes: &[u8]) -> Cut<'_> {
    match memchr(b'\n', bytes) {
        Some(end) => Cut::Skipped { consumed: end + 1, cut: end as u64, skipping: false },
        None => Cut::Skipped { consumed: bytes.len(), cut: bytes.len() as u64, skipping: true },
    }
}

fn trim_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> usize {
        memchr::memrchr(b'\n', bytes).map_or(0, |last| last + 1)
    }

    /// Feeds `input` in pieces of every size and gives the records and the number of bytes cut.
    fn check(rules: &Rules, input: &[u8], records: &[&str], cut_bytes: u64) {
        for piece in 1..=input.len() {
            let (mut out, mut cut_total, mut skipping) = (Vec::new(), 0, false);
            let (mut from, mut to) = (0, 0);
            loop {
                let last = to == input.len();
                let (consumed, more) = match rules.cut(&input[from..to], skipping, last, lines) {
                    Cut::Whole(whole) => {
                        out.extend_from_slice(whole);
                        (whole.len(), false)
                    }
                    Cut::Rewritten { records, consumed, cut, skipping: still } => {
                        out.extend_from_slice(&records);
                        (cut_total, skipping) = (cut_total + cut, still);
                        (consumed, false)
                    }
                    Cut::Skipped { consumed, cut, skipping: still } => {
                        (cut_total, skipping) = (cut_total + cut, still);
                        (consumed, false)
                    }
                    Cut::More => (0, true),
                };
                from += consumed;
                if more && last {
                    break;
                }
                if more {
                    to = (to + piece).min(input.len());
                }
            }
            assert_eq!(from, input.len(), "piece {piece}");
            let text = String::from_utf8_lossy(&out).replace(INNER_LINE_END as char, "|");
            assert_eq!(text.lines().collect::<Vec<_>>(), records, "piece {piece}");
            assert_eq!(cut_total, cut_bytes, "piece {piece}");
        }
    }

    #[test]
    fn lines_are_records_and_long_ones_are_cut_and_counted() {
        let rules = Rules::new(None, 8).unwrap();
        check(&rules, b"one\ntwo\nthree", &["one", "two", "three"], 0);
        check(&rules, b"12345678\nx\n", &["12345678", "x"], 0);
        check(&rules, b"123456789abc\nx\n", &["12345678", "x"], 4);
        check(&rules, b"a\n123456789abc\nx\n123456789\n", &["a", "12345678", "x", "12345678"], 5);
        check(&rules, b"123456789abc", &["12345678"], 4);
    }

    #[test]
    fn records_of_several_lines_hold_together() {
        let start = Rules::new(Some(&MultilineSpec { start: Some("^[0-9]".into()), r#continue: None }), 1000)
            .unwrap();
        check(&start, b"1 a\n  at x\r\n  at y\n2 b\n3 c\n z", &["1 a|  at x|  at y", "2 b", "3 c| z"], 0);
        let next =
            Rules::new(Some(&MultilineSpec { start: None, r#continue: Some("^\\s".into()) }), 1000).unwrap();
        check(&next, b"a\n b\nc\nd\n e\n", &["a| b", "c", "d| e"], 0);
    }

    #[test]
    fn a_record_that_does_not_end_gives_way_to_its_lines() {
        let rules = Rules::new(None, 12).unwrap();
        let never = |_: &[u8]| 0;
        let check = |bytes: &'static [u8], ending, expected| {
            assert_eq!(rules.cut_with(bytes, false, ending, b' ', never), expected, "{ending:?}");
        };
        check(b"ab\ncd\ne", Ending::Open, Cut::More);
        check(b"ab\ncd\ne", Ending::Lines, Cut::Whole(b"ab\ncd\n"));
        check(b"ab", Ending::Lines, Cut::More);
        check(b"ab\ncd\ne", Ending::Last, Cut::Whole(b"ab\ncd\ne"));
        // At the limit it ends with a line, not in the midst of one.
        check(b"ab\ncd\n12345678", Ending::Open, Cut::Whole(b"ab\ncd\n"));
    }
}
