//! Messages as the engine takes them and hands them out.

use std::time::Duration;

use fanlog::{Array, Message, Table, TableRef, Value};

use crate::{
    operations::Sent,
    queue::{Death, Place, Reason},
};

/// Its number, then bytes that only it has.
pub(crate) fn payload(birth: Place, bytes: usize) -> Vec<u8> {
    let noise = (8_u64..bytes as u64).map(|at| (birth * 31 + at * 7).to_le_bytes()[0]);
    birth.to_le_bytes().into_iter().chain(noise).collect()
}

pub(crate) fn birth_of(payload: &[u8]) -> Place {
    Place::from_le_bytes(*payload.first_chunk().expect("a payload begins with its number"))
}

/// What a message borrows.
pub(crate) struct Parts {
    payload: Vec<u8>,
    headers: Table,
}

impl Parts {
    pub(crate) fn of(message: &Sent, birth: Place) -> Self {
        let headers = message.headers.iter();
        let mut headers =
            headers.fold(Table::new(), |table, (name, value)| table.with(name, *value));
        for (header, keys) in [("CC", message.cc), ("BCC", message.bcc)] {
            let mut bytes = Vec::new();
            for key in keys {
                Array::push(&mut bytes, *key);
            }
            if !keys.is_empty() {
                headers.push(header, Value::Array(Array::new(&bytes).unwrap()));
            }
        }
        Self { payload: payload(birth, message.bytes), headers }
    }

    pub(crate) fn message<'a>(&'a self, message: &Sent) -> Message<'a> {
        let Sent { exchange, key, delay, ttl, priority, durability, optional, .. } = *message;
        let mut made = Message::new(exchange, key, &self.payload)
            .headers(self.headers.as_bytes())
            .delay(Duration::from_secs(delay))
            .priority(priority);
        made.mandatory = !optional;
        made.ttl = ttl.map(Duration::from_secs);
        made.durability = durability;
        made
    }
}

/// The history of a message that was dead-lettered.
pub(crate) fn deaths(headers: &[u8]) -> Vec<Death> {
    let headers = TableRef::new(headers).unwrap();
    assert!(headers.get("BCC").is_none(), "it is told to nobody");
    let Some(Value::Array(deaths)) = headers.get("x-death") else { return Vec::new() };
    let of = |death: Value<'_>| {
        let Value::Table(death) = death else { panic!("{death:?}") };
        let text = |key| death.get(key).and_then(Value::as_text).unwrap();
        let reasons = [Reason::Rejected, Reason::Expired, Reason::MaxLength, Reason::DeliveryLimit];
        Death {
            queue: text("queue").to_owned(),
            reason: reasons.into_iter().find(|one| one.name() == text("reason")).unwrap(),
            count: death.get("count").and_then(Value::as_integer).unwrap(),
            expiration: death
                .get("original-expiration")
                .map(|text| text.as_text().unwrap().to_owned()),
        }
    };
    deaths.iter().map(of).collect()
}
