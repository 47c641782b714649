//! One reader, pass by pass.

use std::sync::Arc;

use super::super::identity::{Detail, FileKey, Known, PRINT_BYTES};
use super::super::input::{self, Codec, Peek};
use super::super::reader::{Order, Pass, Reader, Setup};
use super::*;
use crate::config::FormatSpec;
use crate::formats::Recipe;
use crate::records::Rules;

struct Bench {
    directory: tempfile::TempDir,
    reader: Reader,
}

impl Bench {
    fn new(content: &[u8], format: FormatSpec, line_bytes_max: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        fs::write(&path, content).unwrap();
        let (file, stat) = input::open(&path).unwrap();
        let head = Peek { file: &file, codec: Codec::Plain }.head(PRINT_BYTES).unwrap();
        let setup = Setup {
            source: "tail".into(),
            stream: "logs".parse().unwrap(),
            path,
            codec: Codec::Plain,
            known: Known { key: FileKey::mint(&stat, &head, 0), offset: 0, detail: Detail::default() },
            rules: Arc::new(Rules::new(None, line_bytes_max).unwrap()),
            recipe: Recipe::new(format, None, None, false),
        };
        Self { directory, reader: Reader::new(setup, file).unwrap() }
    }

    fn append(&self, text: &str) {
        append(&self.directory.path().join("a.log"), text);
    }

    fn pass(&mut self, idle: bool) -> Pass {
        self.reader.pass(Order { observed_us: 1, idle, held: false, bytes_max: 4 << 20 }).unwrap()
    }
}

#[test]
fn after_a_failed_append_a_header_is_a_header_again() {
    let mut bench = Bench::new(b"name,count\na,1\nb,2\n", FormatSpec::Csv, 1000);
    let first = bench.pass(false);
    assert_eq!((first.parcel.rows(), first.parcel.bad()), (2, 0));
    let mark = bench.reader.begun().unwrap().clone();
    bench.reader.rewind(mark);
    let again = bench.pass(false);
    assert_eq!((again.parcel.rows(), again.parcel.bad()), (2, 0));
}

#[test]
fn many_long_lines_make_one_batch() {
    let mut bench = Bench::new("0123456789abcdef\n".repeat(1000).as_bytes(), FormatSpec::Text, 10);
    let pass = bench.pass(false);
    assert_eq!((pass.parcel.rows(), pass.parcel.tallies.len(), pass.cut), (1000, 1, 6000));
}

#[test]
fn a_pass_over_a_hole_ends_and_keeps_its_place() {
    let mut bench = Bench::new(b"", FormatSpec::Text, 1 << 20);
    File::options()
        .write(true)
        .open(bench.directory.path().join("a.log"))
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let first = bench.pass(false);
    assert!(!first.end && bench.reader.offset() < 16 << 20);
    let second = bench.pass(false);
    assert_eq!((second.parcel.rows(), second.parcel.entries.len()), (0, 1));
}

#[test]
fn the_line_after_one_that_was_too_long_and_taken_without_its_end_is_read() {
    let mut bench = Bench::new(b"0123456789abcdef", FormatSpec::Text, 10);
    bench.pass(false);
    assert_eq!(bench.pass(true).parcel.rows(), 0);
    bench.append("\nnext\n");
    assert_eq!(bench.pass(false).parcel.rows(), 1);
}

#[test]
fn a_line_that_just_came_is_not_taken_for_the_last() {
    let mut bench = Bench::new(b"one\n", FormatSpec::Text, 1000);
    bench.pass(false);
    bench.append("half a li");
    assert_eq!(bench.pass(true).parcel.rows(), 0);
    bench.append("ne\n");
    assert_eq!(bench.pass(true).parcel.rows(), 1);
}
