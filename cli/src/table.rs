//! Tables of typed values, as they are written on the command line and shown.

use fanlog::{QueueOptions, Table, TableRef, Value};
use serde_json::{Map, Number, Value as Json};

use crate::output::hex;

/// One argument from the command line: `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Argument {
    key: String,
    value: String,
}

impl Argument {
    /// Parses `text`; the message of an error is meant for the user.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() && key.len() <= 255 => {
                Ok(Self { key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err("expected KEY=VALUE, with a key of 1 to 255 bytes".to_owned()),
        }
    }

    /// A number if it reads like one, `true` or `false`, or else text.
    fn value(&self) -> Value<'_> {
        match (self.value.parse::<i64>(), self.value.parse::<bool>()) {
            (Ok(number), _) => number.into(),
            (_, Ok(truth)) => truth.into(),
            _ => self.value.as_str().into(),
        }
    }

    /// All arguments as a table.
    pub(crate) fn table(arguments: &[Self]) -> Table {
        // As many as the system lets on a command line fit, but for a table's own limit.
        let mut table = Table::new();
        for argument in arguments {
            if table.try_push(&argument.key, argument.value()).is_err() {
                break;
            }
        }
        table
    }
}

/// A table as JSON. Of several entries with one key the first is shown: it is the one that counts.
pub(crate) fn to_json(table: TableRef<'_>) -> Json {
    let mut map = Map::new();
    for (key, value) in table {
        map.entry(key).or_insert_with(|| value_to_json(value));
    }
    Json::Object(map)
}

fn value_to_json(value: Value<'_>) -> Json {
    let float = |number| Number::from_f64(number).map_or(Json::Null, Json::Number);
    match value {
        Value::Void => Json::Null,
        Value::Bool(value) => value.into(),
        Value::F32(value) => float(value.into()),
        Value::F64(value) => float(value),
        Value::Decimal { scale, value } => format!("{value}e-{scale}").into(),
        Value::Timestamp(seconds) => seconds.into(),
        Value::Array(values) => values.iter().map(value_to_json).collect(),
        Value::Table(table) => to_json(table),
        Value::Text(bytes) | Value::Bytes(bytes) => match str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => hex(bytes).into(),
        },
        other => other.as_integer().map_or(Json::Null, Json::from),
    }
}

/// What a queue was declared with, without what is as by default.
pub(crate) fn options_to_json(options: &QueueOptions) -> Map<String, Json> {
    let mut map = Map::new();
    for (name, set) in [
        ("transient", !options.durable),
        ("exclusive", options.exclusive),
        ("auto-delete", options.auto_delete),
    ] {
        if set {
            map.insert(name.to_owned(), true.into());
        }
    }
    if let Json::Object(arguments) = to_json(options.to_arguments().as_ref()) {
        map.extend(arguments);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_type_that_they_read_like() {
        let parse = |text| Argument::parse(text).unwrap();
        let arguments = [parse("n=-7"), parse("b=true"), parse("t=a=b"), parse("empty=")];
        let table = Argument::table(&arguments);
        assert_eq!(table.get("n"), Some(Value::I64(-7)));
        assert_eq!(table.get("b"), Some(Value::Bool(true)));
        assert_eq!(table.get("t").and_then(Value::as_text), Some("a=b"));
        assert_eq!(table.get("empty").and_then(Value::as_text), Some(""));
        assert!(Argument::parse("=x").is_err() && Argument::parse("x").is_err());
    }

    #[test]
    fn what_is_not_as_by_default_is_shown_by_its_name() {
        let table = Table::new().with("x-max-length", 3_i32).with("mine", Value::Text(b"\xff"));
        let options =
            QueueOptions { durable: false, ..QueueOptions::from_arguments(&table).unwrap() };
        let shown = Json::Object(options_to_json(&options)).to_string();
        assert_eq!(shown, r#"{"mine":"ff","transient":true,"x-max-length":3}"#);
        assert!(options_to_json(&QueueOptions::default()).is_empty());
    }
}
