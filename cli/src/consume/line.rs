//! A message as a line: its bytes, or a JSON object.

use std::{borrow::Cow, sync::Arc};

use fanlog::{Browsed, Delivery};
use serde::Serialize;

use crate::{
    failure::Failure,
    output::{Output, hex},
};

/// What is printed of one message.
pub(super) struct Line<'a> {
    offset: u64,
    exchange: Option<Arc<str>>,
    routing_key: &'a [u8],
    redelivered: Option<bool>,
    delivery_count: Option<u32>,
    published_us: Option<u64>,
    payload: &'a [u8],
}

impl<'a> Line<'a> {
    pub(super) fn of_delivery(delivery: &'a Delivery) -> Self {
        Self {
            offset: delivery.offset().0,
            exchange: Some(delivery.exchange()),
            routing_key: delivery.routing_key(),
            redelivered: Some(delivery.redelivered()),
            delivery_count: Some(delivery.delivery_count()),
            published_us: Some(delivery.published_us()),
            payload: delivery.payload(),
        }
    }

    pub(super) fn of_browsed(browsed: &'a Browsed) -> Self {
        Self {
            offset: browsed.offset.0,
            exchange: None,
            routing_key: &browsed.routing_key,
            redelivered: None,
            delivery_count: None,
            published_us: None,
            payload: &browsed.payload,
        }
    }

    pub(super) fn print(&self, output: &mut Output, json: bool) -> Result<(), Failure> {
        if json {
            return output.json(&self.to_json());
        }
        output.bytes(self.payload)?;
        output.bytes(b"\n")
    }

    fn to_json(&self) -> Json<'_> {
        let text = str::from_utf8(self.payload).ok();
        Json {
            offset: self.offset,
            exchange: self.exchange.as_deref(),
            routing_key: String::from_utf8_lossy(self.routing_key),
            redelivered: self.redelivered,
            delivery_count: self.delivery_count,
            published_us: self.published_us,
            payload: text,
            payload_hex: if text.is_none() { Some(hex(self.payload)) } else { None },
        }
    }
}

/// A message; what a mere look does not tell is left out.
#[derive(Serialize)]
struct Json<'a> {
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exchange: Option<&'a str>,
    routing_key: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redelivered: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    published_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}
