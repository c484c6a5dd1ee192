//! Power cuts at every operation.
mod stepped;
