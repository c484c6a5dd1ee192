//! fanlog: a persistent, log-structured message queue engine, embedded in your process.
//!
//! `RabbitMQ`'s model (exchanges, bindings, queues, competing consumers, manual acks, publisher
//! confirms) over one append-only log. A published message is stored once, whatever the number of
//! queues that get it; a queue is a cursor over the log and a bitmap of what was acked. A confirm
//! means synced, and one sync serves every publisher and every queue.
//!
//! Start at [`Engine::open`]. [`Publisher`] and [`Consumer`] are the two sides; [`Config`] has every
//! setting with its unit, default and range; [`Error`] says what went wrong and where.

mod ack;
mod append;
mod backup;
mod browse;
pub mod check;
mod checkpoint;
pub mod clock;
mod commit;
mod config;
mod confirm;
mod copies;
mod core;
mod count_anew;
mod dead_letter;
mod delete_queue;
mod deliver;
mod drop_routes;
mod engine;
mod error;
mod exchange_options;
mod gate;
mod history;
mod inspect;
mod keeper;
mod ledger;
mod lifetime;
mod limits;
mod log;
mod message;
mod named;
mod on_demand;
mod pending;
mod pins;
mod publish;
mod queue;
mod queue_options;
mod reclaim;
mod reclaim_now;
mod recovery;
pub mod repair;
mod rewind;
mod rewrite;
mod route;
mod stats;
pub mod storage;
mod supply;
mod transaction;

pub use fanlog_segment_format::{
    Offset,
    table::{Array, Table, TableRef, Value},
};

pub use crate::{
    ack::Ack,
    backup::{BackupFiles, BackupProgress, BackupReport},
    browse::{Browsed, Browser},
    config::{Config, Durability, OnDamage, WhenFull},
    delete_queue::DeleteQueue,
    deliver::{
        Cancellation, Consumer, ConsumerOptions, Deliveries, Delivery, DeliveryBatch, DeliveryRef,
        DeliveryTag, Payload,
    },
    engine::{CloseReport, Engine},
    error::{Error, ErrorKind, FileOp, Result},
    exchange_options::ExchangeOptions,
    history::History,
    inspect::{
        BindingView, ExchangeBindingView, ExchangeView, QueueView, SegmentInfo, TopologyView,
    },
    lifetime::ExclusiveQueue,
    log::view::Damage,
    message::{Due, Message},
    named::NamedPublisher,
    pins::{Pin, Pins, SegmentPins},
    publish::{Confirm, Publisher, Ticket},
    queue_options::{Overflow, QueueOptions},
    reclaim_now::ReclaimReport,
    recovery::{Cut, Gap, RecoveryReport, SetAside},
    rewind::{Landed, StartAt},
    route::{Change, ExchangeKind},
    stats::{Histogram, Stats},
    transaction::Transaction,
};

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ReadmeDoctests;
