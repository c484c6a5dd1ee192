//! The engine as its users see it: every promise of the public interface, one test each.
//!
//! Most tests run on a disk in memory with a clock that is set by hand, stepped in one thread, so
//! that they are exact. Where threads, the file system or other processes are the point, they are
//! real, and every wait ends by an event or fails by a time-out.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod ack;
mod ack_timeout;
mod again;
mod backend;
mod backup;
mod bad_input;
mod cancel;
mod close;
mod counts;
mod damage;
mod dead_letter;
mod delayed;
mod delete_queue;
mod deliver;
mod empty_segment;
mod exchange_bind;
mod exchange_options;
mod exclusive;
mod faults;
mod futures;
mod gate;
mod get;
mod headers;
mod history;
mod history_by_chance;
mod lifetime;
mod limits;
mod lock;
mod matrix;
mod max_length;
mod message_priority;
mod nack;
mod named;
mod pins;
mod priority_consumers;
mod publish;
mod purge;
mod quarantine;
mod queue_options;
mod read_only;
mod reclaim;
mod redelivery;
mod reject_publish;
mod requeue;
mod rewrite;
mod route_drop;
mod sender_selected;
mod single_active;
mod space;
mod stats;
mod strangers;
mod support;
mod topic;
mod topology;
mod transaction;
mod transient;
mod ttl;
