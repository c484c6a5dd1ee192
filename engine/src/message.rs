//! What a publisher sends.

use crate::{Durability, Error, Result, route::check_key};
use fanlog_segment_format::layout::{HEADERS_BYTES_MAX, PROPERTIES_BYTES_MAX};

/// A message to be published. Borrows everything: the engine copies it once, into the batch.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Where it enters; `""` for the default exchange, which routes to the queue named by the key.
    pub exchange: &'a str,
    /// What bindings are matched against; at most 255 bytes.
    pub routing_key: &'a str,
    /// The bytes; at most [`message_bytes_max`](crate::Config::message_bytes_max).
    pub payload: &'a [u8],
    /// Opaque to the engine, delivered as given; at most 1 MiB.
    pub properties: &'a [u8],
    /// Opaque to the engine, delivered as given; at most 1 MiB.
    pub headers: &'a [u8],
    /// Stored and delivered; not acted upon yet. Default 0.
    pub priority: u8,
    /// How far its confirm reaches. Default [`Durability::Synced`].
    pub durability: Durability,
}

impl<'a> Message<'a> {
    /// A synced message without properties.
    pub fn new(exchange: &'a str, routing_key: &'a str, payload: &'a [u8]) -> Self {
        Self {
            exchange,
            routing_key,
            payload,
            properties: &[],
            headers: &[],
            priority: 0,
            durability: Durability::Synced,
        }
    }

    /// The same, confirmed once the kernel has it.
    pub fn buffered(self) -> Self {
        Self { durability: Durability::Buffered, ..self }
    }

    /// The same, with properties.
    pub fn properties(self, properties: &'a [u8]) -> Self {
        Self { properties, ..self }
    }

    /// The same, with headers.
    pub fn headers(self, headers: &'a [u8]) -> Self {
        Self { headers, ..self }
    }

    pub(crate) fn validate(&self, message_bytes_max: usize) -> Result<()> {
        check_key(self.routing_key)?;
        within("message", self.payload.len(), message_bytes_max)?;
        within("properties", self.properties.len(), PROPERTIES_BYTES_MAX)?;
        within("headers", self.headers.len(), HEADERS_BYTES_MAX)
    }
}

pub(crate) fn within(what: &'static str, found: usize, limit: usize) -> Result<()> {
    if found > limit {
        return Err(Error::TooLarge { what, found, limit });
    }
    Ok(())
}
