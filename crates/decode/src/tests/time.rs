use proptest::prelude::*;

use crate::TimestampRule;
use crate::time::TimeReader;

use super::OBSERVED_US;

fn reader(format: &str, zone: Option<&str>) -> TimeReader {
    let rule = TimestampRule { column: None, format: Some(format.to_owned()), zone: zone.map(str::to_owned) };
    let mut reader = TimeReader::new(Some(&rule)).unwrap();
    reader.observed(OBSERVED_US);
    reader
}

/// Seconds from the observed time, or `None` if the text is no time.
fn check(format: &str, zone: Option<&str>, text: &str, expected_s: Option<f64>) {
    let read = reader(format, zone).text(text.as_bytes());
    assert_eq!(read.map(|us| (us - OBSERVED_US) as f64 / 1e6), expected_s, "{text} as {format} in {zone:?}");
}

#[test]
fn every_usual_spelling_is_recognised() {
    for text in [
        "2026-11-23T22:44:30Z",
        "2026-11-23t22:44:30z",
        "2026-11-23 22:44:30",
        "2026-11-23 22:44:30 UTC",
        "2026-11-23T23:44:30+01:00",
        "2026-11-23T22:44:30.000000000Z",
        "2026-11-23 22:44:30,000",
        "2026/11/23 22:44:30",
        "23/Nov/2026:23:44:30 +0100",
        "Nov 23 22:44:30",
        "Nov 23 2026 22:44:30",
        "1795473870",
        "1795473870.0",
        "1795473870000",
        "1795473870000000",
        "1795473870000000000",
    ] {
        check("auto", None, text, Some(0.0));
    }
    for text in [
        "",
        "now",
        "2026-11-23",
        "2026-02-30T00:00:00Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T22:44:30Zx",
        "12",
        "22:44:30",
        "9999999999999999999999",
    ] {
        check("auto", None, text, None);
    }
    check("auto", None, "2026-11-23T22:44:60Z", Some(30.0));
    check("auto", None, "2026-11-23T22:44:30.1234569Z", Some(0.123456));
}

#[test]
fn a_zone_dates_only_what_states_none() {
    check("auto", Some("Europe/Berlin"), "2026-11-23 23:44:30", Some(0.0));
    check("auto", Some("+01:00"), "2026-11-23 23:44:30", Some(0.0));
    check("auto", Some("Europe/Berlin"), "2026-11-23T22:44:30Z", Some(0.0));
    // Clocks went back at 03:00 to 02:00 on 2026-10-25: the first 02:30 of two is meant.
    check(
        "auto",
        Some("Europe/Berlin"),
        "2026-10-25 02:30:00",
        Some(-29.0 * 86_400.0 - 22.0 * 3600.0 - 14.5 * 60.0),
    );
}

#[test]
fn a_configured_spelling_is_the_only_one() {
    check("epoch_ms", None, "1795473870500", Some(0.5));
    check("epoch_s", None, "1795473870.25", Some(0.25));
    check("epoch_ns", None, "1795473870000001000", Some(0.000001));
    check("epoch_s", None, "2026-11-23T22:44:30Z", None);
    check("rfc3339", None, "1795473870", None);
    check("%d.%m.%Y %H:%M:%S", None, "23.11.2026 22:44:30", Some(0.0));
    check("%d.%m.%Y %H:%M:%S", Some("Europe/Berlin"), "23.11.2026 23:44:30", Some(0.0));
    check("%Y-%m-%d %H:%M:%S%.f %z", None, "2026-11-23 23:44:30.5 +0100", Some(0.5));
    check("%d.%m.%Y", None, "soon", None);
}

#[test]
fn a_configured_spelling_is_read_at_the_beginning_of_a_line() {
    let leading = |format: &str, zone: Option<&str>, line: &str| {
        reader(format, zone).leading(line.as_bytes()).map(|us| (us - OBSERVED_US) as f64 / 1e6)
    };
    let german = "%d.%m.%Y %H:%M:%S";
    assert_eq!(leading(german, None, "23.11.2026 22:44:30 ERROR gone"), Some(0.0));
    assert_eq!(leading(german, Some("Europe/Berlin"), "[23.11.2026 23:44:30] gone"), Some(0.0));
    assert_eq!(leading("[%d.%m.%Y %H:%M:%S]", None, "[23.11.2026 22:44:31] gone"), Some(1.0));
    assert_eq!(leading("%m/%d/%Y %I:%M:%S %p", None, "11/23/2026 10:44:30 PM x"), Some(0.0));
    assert_eq!(leading("epoch_ms", None, "1795473870500 x"), Some(0.5));
    assert_eq!(leading("epoch_s", None, "1795473870.25: x"), Some(0.25));
    assert_eq!(leading("rfc3339", None, "Nov 23 22:44:30 x"), None);
    assert_eq!(leading(german, None, "2026-11-23T22:44:30Z x"), None);
    assert_eq!(leading(german, None, &format!("\u{e9}{}", "\u{e9}".repeat(80))), None);
}

#[test]
fn a_time_without_a_year_is_the_nearest_one() {
    let mut reader = reader("syslog", None);
    let newyear = 1_798_761_610_000_000; // 2027-01-01T00:00:10Z
    reader.observed(newyear);
    assert_eq!(reader.text(b"Dec 31 23:59:50"), Some(newyear - 20_000_000));
    reader.observed(newyear - 20_000_000);
    assert_eq!(reader.text(b"Jan  1 00:00:10"), Some(newyear));
}

proptest! {
    #[test]
    fn the_calendar_agrees_with_the_library(us in -60_000_000_000_000_000i64..250_000_000_000_000_000) {
        let stamp = jiff::Timestamp::from_microsecond(us).unwrap();
        prop_assert_eq!(reader("rfc3339", None).text(stamp.to_string().as_bytes()), Some(us));
        let syslog = stamp.strftime("%b %e %H:%M:%S").to_string();
        let mut reader = reader("syslog", None);
        reader.observed(us);
        prop_assert_eq!(reader.text(syslog.as_bytes()), Some(us.div_euclid(1_000_000) * 1_000_000));
    }

    #[test]
    fn any_text_is_a_time_or_none(text in prop::collection::vec(any::<u8>(), 0..40), number in any::<i64>(), float in any::<f64>()) {
        for format in ["auto", "rfc3339", "common_log", "syslog", "epoch_ns", "%Y-%m-%dT%H:%M:%S%z"] {
            let reader = reader(format, Some("Europe/Berlin"));
            reader.text(&text);
            reader.leading(&text);
            reader.integer(number);
            reader.float(float);
        }
    }
}
