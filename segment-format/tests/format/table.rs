//! Tables: what was put in comes out, bytes are those of AMQP 0-9-1, bad ones are refused.

use fanlog_segment_format::{
    DecodeError, TABLE_DEPTH_MAX,
    table::{Array, Table, TableRef, Value},
};
use proptest::prelude::*;

/// From the grammar of the AMQP 0-9-1 specification (4.2.5) and `RabbitMQ`'s errata.
#[test]
fn the_bytes_are_those_of_amqp() {
    let table = Table::new().with("a", true).with("bc", -2_i32).with("t", "xy");
    let expected = b"\x01at\x01\x02bcI\xff\xff\xff\xfe\x01tS\0\0\0\x02xy";
    assert_eq!(table.as_bytes(), expected);
    let inner = Table::new().with("n", 1_i64);
    let table = Table::new().with("f", &inner).with("v", Value::Void);
    assert_eq!(table.as_bytes(), b"\x01fF\0\0\0\x0b\x01nl\0\0\0\0\0\0\0\x01\x01vV");
    let mut values = Vec::new();
    Array::push(&mut values, Value::U8(7));
    Array::push(&mut values, Value::Decimal { scale: 2, value: 314 });
    let table = Table::new().with("a", Value::Array(Array::new(&values).unwrap()));
    assert_eq!(table.as_bytes(), b"\x01aA\0\0\0\x08B\x07D\x02\0\0\x01\x3a");
}

#[test]
fn the_first_of_several_entries_with_one_key_counts() {
    let table = Table::new().with("k", 1_i32).with("k", 2_i32);
    assert_eq!(table.get("k"), Some(Value::I32(1)));
    assert_eq!(table.iter().count(), 2);
    assert_eq!(table.get("K"), None);
}

#[test]
fn equal_numbers_of_other_types_are_other_values() {
    assert_ne!(Value::I32(1), Value::I64(1));
    assert_eq!(Value::I32(1).as_integer(), Value::U8(1).as_integer());
}

#[test]
fn what_is_over_a_limit_is_refused_and_changes_nothing() {
    let mut table = Table::new().with("k", 1_i32);
    let before = table.clone();
    let error = table.try_push(&"k".repeat(256), 1_i32).unwrap_err();
    assert!(matches!(error, DecodeError::Length { most: 255, found: 256, .. }), "{error}");
    let large = vec![0; 1 << 20];
    let error = table.try_push("large", Value::Bytes(&large)).unwrap_err();
    assert!(matches!(error, DecodeError::Length { most: 1_048_576, .. }), "{error}");
    assert_eq!(table, before);
    assert!(table.try_push(&"k".repeat(255), 1_i32).is_ok());
}

#[test]
fn tables_nest_so_deep_and_no_deeper() {
    let mut table = Table::new().with("k", 1_i32);
    for _ in 0..TABLE_DEPTH_MAX {
        table = Table::new().with("t", &table);
    }
    let error = Table::new().try_push("t", &table).unwrap_err();
    assert!(error.to_string().contains("depth"), "{error}");
    let mut arrays = Vec::new();
    for _ in 0..2000 {
        let [low, high] = u16::try_from(arrays.len()).unwrap().to_le_bytes();
        arrays.splice(0..0, [b'A', 0, 0, high, low]);
    }
    assert!(Array::new(&arrays).is_err());
}

#[test]
fn bad_bytes_are_told_with_their_place() {
    let cases: [(&[u8], &str, u64); 5] = [
        (b"\x05abc", "needs 5 bytes", 1),
        (b"\x01aS\0\0\0\x09abc", "needs 9 bytes", 7),
        (b"\x01a?", "type", 2),
        (b"\x02a\xfft\x01", "key", 2),
        (b"\x01fF\0\0\0\x03\x01a?", "type", 9),
    ];
    for (bytes, text, position) in cases {
        let error = TableRef::new(bytes).unwrap_err();
        assert!(error.to_string().contains(text), "{bytes:?}: {error}");
        assert_eq!(error.position(), position, "{bytes:?}: {error}");
    }
}

fn leaf() -> impl Strategy<Value = Value<'static>> {
    prop_oneof![
        Just(Value::Void),
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        proptest::num::f32::NORMAL.prop_map(Value::F32),
        proptest::num::f64::NORMAL.prop_map(Value::F64),
        any::<u64>().prop_map(Value::Timestamp),
        any::<(u8, i32)>().prop_map(|(scale, value)| Value::Decimal { scale, value }),
        Just(Value::Text(b"some text")),
        Just(Value::Bytes(b"\0\xff")),
    ]
}

proptest! {
    #[test]
    fn what_was_put_in_comes_out(entries in prop::collection::vec((".{0,20}", leaf()), 0..20)) {
        let mut inner = Table::new();
        let mut values = Vec::new();
        for (key, value) in &entries {
            inner.push(key, *value);
            Array::push(&mut values, *value);
        }
        let array = Array::new(&values).unwrap();
        let table = Table::new().with("table", &inner).with("array", Value::Array(array));
        let again = Table::from_bytes(table.as_bytes().to_vec()).unwrap();
        let Some(Value::Table(found)) = again.get("table") else { panic!("{again:?}") };
        let found: Vec<_> = found.iter().map(|(key, value)| (key.to_owned(), value)).collect();
        prop_assert_eq!(&found, &entries);
        let Some(Value::Array(found)) = again.get("array") else { panic!("{again:?}") };
        prop_assert!(found.iter().eq(entries.iter().map(|(_, value)| *value)));
    }

    #[test]
    fn any_bytes_are_a_table_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(table) = TableRef::new(&bytes) {
            prop_assert!(table.iter().count() <= bytes.len());
            let owned = table.to_table();
            prop_assert_eq!(owned.as_bytes(), &bytes);
        }
    }
}
