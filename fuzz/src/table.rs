//! Tables of typed values: any bytes are one or are refused, and reading one stays within it.

use fanlog_segment_format::table::{Array, Table, TableRef, Value};

/// Decodes `bytes`, and what is in the table if they are one.
pub fn run(bytes: &[u8]) {
    let Ok(table) = TableRef::new(bytes) else { return };
    read(table);
    let mut again = Table::new();
    for (key, value) in table {
        again.push(key, value);
        assert!(again.get(key).is_some(), "an entry that was put in is found");
    }
    assert_eq!(again.iter().count(), table.iter().count());
}

fn read(table: TableRef<'_>) {
    table.iter().for_each(|(_, value)| look_into(value));
}

fn look_into(value: Value<'_>) {
    match value {
        Value::Table(table) => read(table),
        Value::Array(array) => read_array(array),
        _ => {}
    }
}

fn read_array(array: Array<'_>) {
    array.iter().for_each(look_into);
}
