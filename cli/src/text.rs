//! Text as a terminal may show it: cleaned of control characters, numbers and times as people read them.

use aap_types::ByteCount;
use jiff::Timestamp;

/// One line that cannot move the cursor: escape sequences are removed, line breaks and tabs shown as `\n` and `\t`,
/// other control and direction characters removed.
pub(crate) fn clean(text: &str) -> String {
    if !text.chars().any(is_unsafe) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' => skip_sequence(&mut rest),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_unsafe(c) => {}
            c => out.push(c),
        }
    }
    out
}

/// As [`clean`], but line breaks stay.
pub(crate) fn clean_lines(text: &str) -> String {
    text.split('\n').map(clean).collect::<Vec<_>>().join("\n")
}

/// Passes over what follows an escape character: CSI up to its final byte, OSC up to its end, else one character.
fn skip_sequence(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match rest.next_if(|c| matches!(c, '[' | ']')) {
        Some('[') => while rest.next_if(|c| !('\x40'..='\x7e').contains(c)).is_some() {},
        Some(_) => while rest.next_if(|c| !matches!(c, '\x07' | '\x1b')).is_some() {},
        None => {}
    }
    rest.next_if(|c| *c != '\x1b');
}

fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// A cell of tab-separated text: backslash, tab, line breaks, control and direction characters as escapes, so that no
/// cell breaks its line and the text can be had back.
pub(crate) fn escape_plain(text: &str) -> String {
    if !text.chars().any(|c| c == '\\' || is_unsafe(c)) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if is_unsafe(c) => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

/// A cell of CSV (RFC 4180).
pub(crate) fn escape_csv(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1.5 MiB`.
pub(crate) fn bytes(number: u64) -> String {
    ByteCount(number).to_string()
}

/// Rows per second.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 1e6 => format!("{:.1} M", r / 1e6),
        r if r >= 1e4 => format!("{:.1} k", r / 1e3),
        r if r >= 100.0 => format!("{r:.0}"),
        r if r > 0.0 => format!("{r:.1}"),
        _ => "0".to_owned(),
    }
}

/// A span of time, in the largest unit that fits.
pub(crate) fn span_ms(ms: i64) -> String {
    match ms {
        ..0 => "0 ms".to_owned(),
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{:.0} s", ms as f64 / 1e3),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// How long ago, or how far ahead where a clock runs ahead.
pub(crate) fn age(now_us: i64, then_us: i64) -> String {
    match now_us.saturating_sub(then_us) / 1000 {
        ahead if ahead < -1000 => format!("in {}", span_ms(-ahead)),
        ms if ms < 1000 => "now".to_owned(),
        ms => format!("{} ago", span_ms(ms)),
    }
}

/// Microseconds since 1970 as RFC 3339; `None` for 0, which stands for never.
pub(crate) fn rfc3339(us: i64) -> Option<String> {
    (us != 0).then(|| Timestamp::from_microsecond(us).ok().map(|t| t.to_string())).flatten()
}

/// The reverse of [`rfc3339`].
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_data_reaches_the_terminal_as_a_command() {
        for (data, shown) in [
            ("plain", "plain"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07after", "after"),
            ("\x1b]8;;http://x\x1b\\link", "link"),
            ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
            ("\x07\x08\u{9b}31m\u{202e}x", "31mx"),
            ("\x1b", ""),
            ("\x1b[", ""),
        ] {
            assert_eq!(clean(data), shown, "{data:?}");
        }
    }

    #[test]
    fn a_plain_cell_never_breaks_its_line() {
        assert_eq!(escape_plain("a\tb\\n\nc\x1b\u{202e}"), "a\\tb\\\\n\\nc\\x1b\\u202e");
        assert_eq!(escape_csv("say \"x\", y"), "\"say \"\"x\"\", y\"");
    }

    #[test]
    fn figures_read_well() {
        assert_eq!((count(0), count(999), count(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
        assert_eq!(age(10_000_000, 7_000_000), "3 s ago");
        assert_eq!(age(1_000_000, 61_000_000), "in 60 s");
        assert_eq!(rfc3339(0), None);
        assert_eq!(parse_rfc3339(&rfc3339(1_700_000_000_123_456).unwrap()), Some(1_700_000_000_123_456));
    }
}
