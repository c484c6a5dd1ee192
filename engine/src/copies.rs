//! Routing keys that a sender chooses beside that of its message, in its headers: `CC`, `BCC`.
//!
//! As in `RabbitMQ` (sender-selected distribution) a message goes to all queues that it would go to with
//! any of its keys, and `BCC` is taken out before it is stored. In: headers as they were given. Out:
//! keys, and headers without `BCC`. Headers in which the two letters do not occur cost one look at
//! their bytes.

use fanlog_segment_format::table::{Table, TableRef, Value};

use crate::{Error, Message, Result, route::check_key};

const CC: &str = "CC";
const BCC: &str = "BCC";

/// Whether headers may have keys, by their bytes alone.
pub(crate) fn may_be_in(headers: &[u8]) -> bool {
    headers.windows(CC.len()).any(|two| two == CC.as_bytes())
}

/// The table of headers that may have keys; headers that are no table have none.
fn table_of(headers: &[u8]) -> Option<TableRef<'_>> {
    may_be_in(headers).then(|| TableRef::new(headers).ok()).flatten()
}

/// The further keys of a message that was [checked](check).
pub(crate) fn keys_of(headers: &[u8]) -> Vec<&str> {
    let Some(table) = table_of(headers) else { return Vec::new() };
    let arrays = [CC, BCC].into_iter().filter_map(|header| match table.get(header) {
        Some(Value::Array(keys)) => Some(keys),
        _ => None,
    });
    arrays.flat_map(|keys| keys.iter().filter_map(Value::as_text)).collect()
}

/// Checks that the keys of a message are some.
///
/// # Errors
///
/// [`Error::HeaderType`] if one of the headers is no array of texts, [`Error::Name`] for a key that is
/// too long.
pub(crate) fn check(headers: &[u8]) -> Result<()> {
    let Some(table) = table_of(headers) else { return Ok(()) };
    for header in [CC, BCC] {
        let Some(value) = table.get(header) else { continue };
        let wrong = |found: Value<'_>| Error::HeaderType {
            header,
            found: format!("{found:?}").chars().take(64).collect(),
        };
        let Value::Array(keys) = value else { return Err(wrong(value)) };
        for key in keys.iter() {
            check_key(key.as_text().ok_or_else(|| wrong(key))?)?;
        }
    }
    Ok(())
}

/// The headers without some of their entries; `None` if they have none of them.
fn without(headers: &[u8], gone: &[&str]) -> Option<Table> {
    let table = table_of(headers)?;
    if gone.iter().all(|header| table.get(header).is_none()) {
        return None;
    }
    let mut rest = Table::new();
    for (key, value) in table.iter().filter(|(key, _)| !gone.contains(key)) {
        // Less than what was valid is within every limit.
        rest.try_push(key, value).ok()?;
    }
    Some(rest)
}

/// The headers of a dead letter that has a key of its own: no other keys go with it.
pub(crate) fn without_any(headers: &[u8]) -> Option<Table> {
    without(headers, &[CC, BCC])
}

/// What messages are stored with instead of their headers; empty if none has to be.
pub(crate) fn stored(messages: &[Message<'_>]) -> Vec<Option<Table>> {
    let any = |message: &Message<'_>| !message.headers.is_empty() && may_be_in(message.headers);
    if !messages.iter().any(any) {
        return Vec::new();
    }
    messages.iter().map(|message| without(message.headers, &[BCC])).collect()
}

#[cfg(test)]
mod tests {
    use fanlog_segment_format::table::Array;

    use super::*;

    fn array(keys: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for key in keys {
            Array::push(&mut bytes, *key);
        }
        bytes
    }

    #[test]
    fn keys_are_those_of_both_headers_and_only_bcc_is_taken_out() {
        let (cc, bcc) = (array(&["a", "b"]), array(&["c"]));
        let [cc, bcc] = [&cc, &bcc].map(|bytes| Value::Array(Array::new(bytes).unwrap()));
        let headers = Table::new().with("BCC", bcc).with("mine", 1).with("CC", cc);
        assert_eq!(keys_of(headers.as_bytes()), ["a", "b", "c"]);
        let message = Message::new("", "k", b"").headers(headers.as_bytes());
        let kept = Table::new().with("mine", 1).with("CC", cc);
        assert_eq!(stored(&[message]), [Some(kept)]);
        assert_eq!(without_any(headers.as_bytes()), Some(Table::new().with("mine", 1)));
    }

    #[test]
    fn others_have_none_and_stay_as_they_are() {
        let nested = Table::new().with("inner", Value::Table(Table::new().with("CC", 1).as_ref()));
        let text = Table::new().with("note", "CC").with("cc", 1).with("CCC", 2);
        for headers in [&b""[..], b"\xffCC no table", nested.as_bytes(), text.as_bytes()] {
            assert!(keys_of(headers).is_empty() && check(headers).is_ok());
            let message = Message::new("", "k", b"").headers(headers);
            assert!(stored(&[message]).iter().all(Option::is_none));
        }
        let (wrong, number) = (Table::new().with("BCC", "text"), Value::I32(1));
        let mut bytes = array(&["a"]);
        Array::push(&mut bytes, number);
        let mixed = Table::new().with("CC", Value::Array(Array::new(&bytes).unwrap()));
        for table in [wrong, mixed] {
            assert!(matches!(check(table.as_bytes()), Err(Error::HeaderType { .. })));
        }
    }
}
