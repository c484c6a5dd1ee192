//! One structure of a file: what it is, where it stands, and its fields, as a line or as JSON.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;

use crate::{
    failure::Failure,
    output::{Output, hex, one_line},
};

/// Entries of a list, and bytes of a payload, that are shown unless all is asked for.
const SHOWN_MAX: usize = 16;
const PAYLOAD_BYTES_MAX: usize = 64;

/// A structure that was found, or damage in the place of one.
#[derive(Debug)]
pub(super) struct Item {
    what: &'static str,
    position: u64,
    fields: Vec<(&'static str, Value)>,
    /// It lies within the one before.
    inner: bool,
}

impl Item {
    pub(super) fn new(what: &'static str, position: u64) -> Self {
        Self { what, position, fields: Vec::new(), inner: false }
    }

    /// The same, as a part of the one before.
    pub(super) fn inner(self) -> Self {
        Self { inner: true, ..self }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// With a field that is left out where there is nothing to say.
    pub(super) fn with_some(self, name: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// With bytes: as text where they are, else as hexadecimal digits; cut unless `whole`.
    pub(super) fn with_bytes(
        self,
        name: &'static str,
        hex_name: &'static str,
        bytes: &[u8],
        whole: bool,
    ) -> Self {
        let shown = if whole { bytes } else { &bytes[..bytes.len().min(PAYLOAD_BYTES_MAX)] };
        let cut = bytes.len() > shown.len();
        let item = match text_of(shown, cut) {
            Some(text) => self.with(name, text),
            None => self.with(hex_name, hex(shown)),
        };
        if cut { item.with("cut", true) } else { item }
    }

    /// With a list; cut unless `whole`.
    pub(super) fn with_list(
        self,
        name: &'static str,
        values: impl Iterator<Item = Value>,
        whole: bool,
    ) -> Self {
        let limit = if whole { usize::MAX } else { SHOWN_MAX };
        let mut shown = Vec::new();
        let mut left = 0_u64;
        for value in values {
            if shown.len() < limit {
                shown.push(value);
            } else {
                left += 1;
            }
        }
        let item = self.with(name, shown);
        if left > 0 { item.with("more", left) } else { item }
    }

    /// Prints it as one line.
    pub(super) fn print(&self, file: &str, json: bool, output: &mut Output) -> Result<(), Failure> {
        if json {
            return output.json(&Line { file, item: self });
        }
        let indent = if self.inner { "    " } else { "" };
        let mut line = format!("{indent}{} {}", self.position, self.what);
        for (name, value) in &self.fields {
            line.push(' ');
            line.push_str(name);
            line.push('=');
            match value {
                Value::String(text) if is_plain(text) => line.push_str(text),
                // Quoted and escaped as in JSON, which also escapes what could forge a line.
                value => line.push_str(&one_line(&value.to_string())),
            }
        }
        output.line(&line)
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"')
}

/// The bytes as text, if they are; of cut ones the last character may be incomplete.
fn text_of(bytes: &[u8], cut: bool) -> Option<&str> {
    match str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if cut && error.error_len().is_none() => {
            str::from_utf8(&bytes[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

struct Line<'a> {
    file: &'a str,
    item: &'a Item,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("file", self.file)?;
        map.serialize_entry("position", &self.item.position)?;
        map.serialize_entry("is", self.item.what)?;
        for (name, value) in &self.item.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_where_they_can_be_and_cut_between_characters() {
        assert_eq!(text_of("aé".as_bytes(), false), Some("aé"));
        assert_eq!(text_of(&"aé".as_bytes()[..2], true), Some("a"));
        assert_eq!(text_of(&"aé".as_bytes()[..2], false), None);
        assert_eq!(text_of(b"a\xffb", true), None);
    }

    #[test]
    fn what_is_cut_says_so() {
        let item = Item::new("x", 0).with_bytes("p", "p_hex", &[b'a'; 65], false);
        assert_eq!(item.fields[0].1.as_str().map(str::len), Some(64));
        assert_eq!(item.fields[1], ("cut", Value::Bool(true)));
        let item = Item::new("x", 0).with_list("l", (0..20).map(Value::from), false);
        assert_eq!(item.fields[1], ("more", Value::from(4)));
        let item = Item::new("x", 0).with_list("l", (0..20).map(Value::from), true);
        assert_eq!(item.fields.len(), 1);
    }
}
