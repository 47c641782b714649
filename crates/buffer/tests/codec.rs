//! Payloads: what goes in comes out, and what others send cannot hurt.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use aap_buffer::{EncodedBatch, Encoder, Error, FrameSchema, decode};
use arrow_array::builder::{ListBuilder, StringBuilder, StringDictionaryBuilder};
use arrow_array::types::{Int8Type, Int32Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, DictionaryArray, Float64Array, Int64Array, NullArray,
    RecordBatch, StringArray, StringViewArray, StructArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use proptest::prelude::*;

fn dictionary(values: &[Option<&str>]) -> ArrayRef {
    let mut builder = StringDictionaryBuilder::<Int8Type>::new();
    values.iter().for_each(|value| builder.append_option(*value));
    Arc::new(builder.finish())
}

fn everything(rows: usize) -> RecordBatch {
    let texts: Vec<Option<String>> = (0..rows).map(|i| (i % 5 != 0).then(|| format!("text {i}"))).collect();
    let words: Vec<Option<&str>> =
        (0..rows).map(|i| [Some("info"), Some("warn"), None, Some("error")][i % 4]).collect();
    let mut list = ListBuilder::new(StringBuilder::new());
    for i in 0..rows {
        list.values().append_value(format!("{i}"));
        list.append(i % 3 != 0);
    }
    let nested: ArrayRef = dictionary(&words);
    let fields = StructArray::from(vec![
        (Arc::new(Field::new("inner", nested.data_type().clone(), true)), nested),
        (
            Arc::new(Field::new("plain", DataType::UInt32, true)),
            Arc::new(UInt32Array::from_iter_values(0..rows as u32)) as ArrayRef,
        ),
    ]);
    let outer_keys = Int64Array::from_iter_values((0..rows).map(|i| (i % 2) as i64));
    let outer = DictionaryArray::new(outer_keys, Arc::new(StringArray::from(vec!["x", "y"])));
    RecordBatch::try_from_iter_with_nullable([
        (
            "ts",
            Arc::new(
                TimestampMicrosecondArray::from_iter_values((0..rows).map(|i| 1000 - i as i64))
                    .with_timezone("UTC"),
            ) as ArrayRef,
            true,
        ),
        ("severity", dictionary(&words), true),
        ("n", Arc::new((0..rows).map(|i| (i % 7 != 0).then_some(i as i64)).collect::<Int64Array>()), true),
        ("f", Arc::new(Float64Array::from_iter_values((0..rows).map(|i| i as f64 / 3.0))), true),
        ("ok", Arc::new(BooleanArray::from_iter((0..rows).map(|i| Some(i % 2 == 0)))), true),
        ("body", Arc::new(StringArray::from(texts.clone())), true),
        ("view", Arc::new(StringViewArray::from_iter(texts)), true),
        ("bin", Arc::new(BinaryArray::from_iter_values((0..rows).map(|i| vec![i as u8; i % 40]))), true),
        ("list", Arc::new(list.finish()), true),
        ("object", Arc::new(fields), true),
        ("outer", Arc::new(outer), true),
        ("nothing", Arc::new(NullArray::new(rows)), true),
    ])
    .unwrap()
}

fn encode(batch: &RecordBatch) -> EncodedBatch {
    Encoder::new().encode(batch, &FrameSchema::of(batch.schema()), 1).unwrap()
}

fn columns(batch: &RecordBatch) -> Vec<arrow_data::ArrayData> {
    batch.columns().iter().map(|column| column.to_data()).collect()
}

#[test]
fn every_type_survives_and_a_projection_gives_its_columns_in_its_order() {
    let mut encoder = Encoder::new();
    for rows in [0, 1, 3, 1000, 777] {
        let batch = everything(rows);
        let schema = FrameSchema::of(batch.schema());
        let there = FrameSchema::from_ipc(schema.ipc().clone()).unwrap();
        assert_eq!(there.fingerprint(), schema.fingerprint());
        let encoded = encoder.encode(&batch, &schema, 5).unwrap();
        assert_eq!(encoded.rows as usize, rows);
        if rows > 0 {
            assert_eq!((encoded.ts_min_us, encoded.ts_max_us), (1001 - rows as i64, 1000));
        }
        for schema in [&schema, &there] {
            let back = decode(schema, &encoded.payload, None).unwrap();
            assert_eq!(columns(&back), columns(&batch), "{rows} rows");
            for projection in [&[][..], &[10, 1], &[5], &[9, 0, 6], &[11]] {
                let part = decode(schema, &encoded.payload, Some(projection)).unwrap();
                assert_eq!(columns(&part), columns(&batch.project(projection).unwrap()));
                assert_eq!(part.num_rows(), rows);
            }
        }
    }
}

#[test]
fn a_slice_is_stored_without_the_rest() {
    let batch = everything(5000);
    let slice = batch.slice(100, 10);
    let encoded = encode(&slice);
    let back = decode(&encoded.schema, &encoded.payload, None).unwrap();
    assert_eq!(columns(&back), columns(&slice));
    assert!(encoded.payload.len() < encode(&batch).payload.len() / 4);
}

#[test]
fn other_columns_than_the_schema_are_refused() {
    let batch = everything(3);
    let schema = FrameSchema::of(Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)])));
    assert!(matches!(Encoder::new().encode(&batch, &schema, 0), Err(Error::Invalid(_))));
    let encoded = encode(&batch);
    assert!(decode(&encoded.schema, &encoded.payload, Some(&[99])).is_err());
    drop(decode(&schema, &encoded.payload, None));
}

#[test]
fn a_batch_that_could_not_be_sent_or_decoded_is_refused_before_it_is_stored() {
    let mut noise = 1u64;
    let mut random = || {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::from_ne_bytes(noise.rotate_left(21).to_ne_bytes())
    };
    let rows = 1 + (aap_buffer::PAYLOAD_BYTES_MAX / 8) as usize;
    let numbers = Int64Array::from_iter_values((0..rows).map(|_| random()));
    let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef)]).unwrap();
    let schema = FrameSchema::of(batch.schema());
    let refused = Encoder::new().encode(&batch, &schema, 0);
    assert!(matches!(refused, Err(Error::Oversize { limit: aap_buffer::PAYLOAD_BYTES_MAX, .. })), "payload");
    let half = Encoder::new().encode(&batch.slice(0, rows / 2), &schema, 0).unwrap();
    assert!(decode(&schema, &half.payload, None).is_ok());

    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; 9_000_000]));
    let columns = (0..4).map(|i| (format!("c{i}"), zeros.clone()));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let schema = FrameSchema::of(batch.schema());
    let refused = Encoder::new().encode(&batch, &schema, 0);
    assert!(matches!(refused, Err(Error::Oversize { limit: aap_buffer::DECODED_BYTES_MAX, .. })), "decoded");
    let part = Encoder::new().encode(&batch.slice(5, 8_000_000), &schema, 0).unwrap();
    assert_eq!(decode(&schema, &part.payload, None).unwrap().num_rows(), 8_000_000);

    let long = "x".repeat(1 << 20);
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let columns = (0..5).map(|i| (format!("{long}{i}"), column.clone()));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let refused = Encoder::new().encode(&batch, &FrameSchema::of(batch.schema()), 0);
    assert!(matches!(refused, Err(Error::Oversize { .. })), "schema");
}

#[test]
fn a_compression_bomb_is_refused() {
    // Claims of sizes are believed only within a limit: a column that says it is 1 TiB.
    let zeros = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![0; 100_000])) as ArrayRef)])
        .unwrap();
    let encoded = encode(&zeros);
    let mut bytes = encoded.payload.to_vec();
    let claimed = 800_000i64.to_le_bytes();
    let at = bytes.windows(8).position(|window| window == claimed).unwrap();
    bytes[at..at + 8].copy_from_slice(&(1i64 << 40).to_le_bytes());
    let refused = decode(&encoded.schema, &Bytes::from(bytes), None);
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    let keys = arrow_array::PrimitiveArray::<Int32Type>::from(vec![0; 10]);
    drop(keys);
}

#[test]
fn every_cut_and_every_flipped_byte_gives_an_error_or_rows_but_never_a_panic() {
    let batch = everything(60);
    let encoded = encode(&batch);
    for end in 0..encoded.payload.len() {
        assert!(decode(&encoded.schema, &encoded.payload.slice(..end), None).is_err(), "cut at {end}");
    }
    // A panic inside Arrow is caught by `decode`; here it would print, so the hook counts instead.
    for at in 0..encoded.payload.len() {
        let mut bytes = encoded.payload.to_vec();
        bytes[at] ^= 1 << (at % 8);
        if let Ok(rows) = decode(&encoded.schema, &Bytes::from(bytes), None) {
            use_rows(&rows);
        }
    }
    let ipc = encoded.schema.ipc();
    for at in 0..ipc.len() {
        drop(FrameSchema::from_ipc(ipc.slice(..at)));
        let mut bytes = ipc.to_vec();
        bytes[at] ^= 1 << (at % 8);
        if let Ok(schema) = FrameSchema::from_ipc(Bytes::from(bytes))
            && let Ok(rows) = decode(&schema, &encoded.payload, None)
        {
            use_rows(&rows);
        }
    }
}

/// What was taken must be safe to use.
fn use_rows(batch: &RecordBatch) {
    for column in batch.columns() {
        column.to_data().validate_full().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_no_batch(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let schema = FrameSchema::of(everything(1).schema());
        prop_assert!(decode(&schema, &Bytes::from(bytes.clone()), None).is_err());
        prop_assert!(FrameSchema::from_ipc(Bytes::from(bytes)).is_err());
    }

    #[test]
    fn text_and_numbers_survive(rows in proptest::collection::vec((any::<Option<String>>(), any::<i64>()), 0..50)) {
        let texts = StringArray::from_iter(rows.iter().map(|(text, _)| text.clone()));
        let numbers = Int64Array::from_iter_values(rows.iter().map(|(_, n)| *n));
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("body", Arc::new(texts) as ArrayRef, true),
            ("n", Arc::new(numbers) as ArrayRef, true),
        ]).unwrap();
        let encoded = encode(&batch);
        let back = decode(&encoded.schema, &encoded.payload, None).unwrap();
        prop_assert_eq!(columns(&back), columns(&batch));
    }
}
