//! `fanlog declare`: sets up exchanges, queues and bindings.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use fanlog::{
    Change, Engine, ExchangeKind, ExchangeOptions, History, QueueOptions, StartAt, Table,
};
use serde::Serialize;

use crate::{
    duration,
    failure::{Failure, Status},
    output::{Output, exchange_name, one_line},
    start,
    store::{self, IfMissing, Settings},
    table::Argument,
};

/// Declare an exchange, queues or bindings; make the store if it is not there.
///
/// What exists alike is left as it is. On return everything is durable.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Declare {
    /// Directory of the store
    pub(crate) dir: PathBuf,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    what: What,
}

const EXAMPLES: &str = "\
Every queue can be reached by its own name through the default exchange, without a binding.

Examples:
  fanlog declare orders queue billing shipping
  fanlog declare orders queue quick --argument x-max-length=1000 --argument x-message-ttl=60000
  fanlog declare orders exchange placed --kind fanout
  fanlog declare orders bind billing placed
  fanlog declare orders exchange by-country --kind direct
  fanlog declare orders bind billing by-country --key de --key fr
  fanlog declare orders exchange events --kind topic --alternate placed
  fanlog declare orders exchange results --kind topic --history-age 24h
  fanlog declare orders bind billing results --key 'order.#' --from earliest
  fanlog declare orders bind shipping results --key 'order.#' --from 90m
  fanlog declare orders bind-exchange placed events --key 'order.#'";

#[derive(Subcommand)]
enum What {
    /// Declare an exchange
    Exchange {
        /// Name of the exchange
        name: String,
        /// To which queues it sends a message
        #[arg(long, value_enum, default_value_t = Kind::Fanout)]
        kind: Kind,
        /// It is gone, with its bindings, once the store is opened again
        #[arg(long)]
        transient: bool,
        /// It is deleted when the last of the bindings from it goes
        #[arg(long)]
        auto_delete: bool,
        /// Nobody publishes to it: it is reached through other exchanges
        #[arg(long)]
        internal: bool,
        /// Exchange that gets what none of its bindings matches
        #[arg(long, value_name = "EXCHANGE")]
        alternate: Option<String>,
        /// Keep what passes through it for so long, such as 24h
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        history_age: Option<Duration>,
        /// Keep so many payload bytes of what passes through it
        #[arg(long, value_name = "BYTES")]
        history_bytes: Option<u64>,
    },
    /// Bind an exchange to an exchange
    BindExchange {
        /// Name of the exchange that messages go to
        destination: String,
        /// Name of the exchange that they come from
        source: String,
        /// Routing key, or pattern, that the source compares; may be given several times
        #[arg(long, default_value = "")]
        key: Vec<String>,
    },
    /// Declare queues, all in one commit
    Queue {
        /// Names of the queues
        #[arg(required = true)]
        names: Vec<String>,
        /// Argument of the queues, under `RabbitMQ`'s name, such as x-message-ttl=60000; may be given
        /// several times
        #[arg(long, value_name = "KEY=VALUE", value_parser = Argument::parse)]
        argument: Vec<Argument>,
        /// Delete them when their last consumer goes
        #[arg(long)]
        auto_delete: bool,
    },
    /// Bind a queue to an exchange
    Bind {
        /// Name of the queue
        queue: String,
        /// Name of the exchange
        exchange: String,
        /// Routing key that a direct exchange compares, or pattern of a topic exchange; may be given
        /// several times
        #[arg(long, default_value = "")]
        key: Vec<String>,
        /// Where in the exchange's history it begins: earliest, latest, an offset, a date such as
        /// 2026-11-23T01:30:00Z, or a time ago such as 90m
        #[arg(long, default_value = "latest", value_parser = start::parse)]
        from: StartAt,
    },
}

/// Kind of an exchange, as written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// To every bound queue
    Fanout,
    /// To the queues bound with the message's routing key
    Direct,
    /// To the queues bound with a pattern of the routing key: * one word, # any number of words
    Topic,
    /// To the queues bound with arguments that match the message's headers
    Headers,
}

impl From<Kind> for ExchangeKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Fanout => Self::Fanout,
            Kind::Direct => Self::Direct,
            Kind::Topic => Self::Topic,
            Kind::Headers => Self::Headers,
        }
    }
}

impl Declare {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        let engine = self.settings.open(&self.dir, IfMissing::Create)?;
        store::session(engine, |engine| self.change(engine))?;
        self.print()?;
        Ok(Status::Fine)
    }

    fn change(&self, engine: &Engine) -> Result<(), Failure> {
        let options = self.what.options()?;
        let (of_exchange, arguments) = (&self.what.exchange_options(), &Table::new());
        let changes: Vec<Change<'_>> = match &self.what {
            What::Exchange { name, kind, .. } => {
                let (kind, options) = ((*kind).into(), of_exchange);
                vec![Change::DeclareExchangeWith { name, kind, options }]
            }
            What::BindExchange { destination, source, key } => {
                let bind = |routing_key| Change::BindExchange {
                    destination,
                    source,
                    routing_key,
                    arguments,
                };
                key.iter().map(|key| bind(key)).collect()
            }
            What::Queue { names, .. } => {
                let declare = |name| Change::DeclareQueue { name, options: &options };
                names.iter().map(|name| declare(name)).collect()
            }
            What::Bind { queue, exchange, key, from } if *from != StartAt::Latest => {
                for key in key {
                    engine.bind_from(queue, exchange, key, arguments, *from)?;
                }
                return Ok(());
            }
            What::Bind { queue, exchange, key, .. } => {
                let bind = |routing_key| Change::Bind { queue, exchange, routing_key };
                key.iter().map(|key| bind(key)).collect()
            }
        };
        Ok(engine.change(&changes)?)
    }

    fn print(&self) -> Result<(), Failure> {
        let mut output = Output::new();
        if self.json {
            output.json(&Json::from(&self.what))?;
        } else {
            self.what.print(&mut output)?;
        }
        output.flush()
    }
}

impl What {
    fn exchange_options(&self) -> ExchangeOptions {
        let Self::Exchange {
            transient,
            auto_delete,
            internal,
            alternate,
            history_age,
            history_bytes,
            ..
        } = self
        else {
            return ExchangeOptions::default();
        };
        let history = History { age: *history_age, bytes: *history_bytes };
        ExchangeOptions {
            durable: !transient,
            auto_delete: *auto_delete,
            internal: *internal,
            alternate: alternate.clone(),
            history: (history != History::default()).then_some(history),
            ..ExchangeOptions::default()
        }
    }

    fn options(&self) -> Result<QueueOptions, Failure> {
        let Self::Queue { argument, auto_delete, .. } = self else {
            return Ok(QueueOptions::default());
        };
        let options = QueueOptions::from_arguments(&Argument::table(argument))?;
        Ok(QueueOptions { auto_delete: *auto_delete, ..options })
    }

    fn print(&self, output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::Exchange { name, .. } => output.line(&format!("exchange {}", one_line(name))),
            Self::BindExchange { destination, source, key } => key.iter().try_for_each(|key| {
                let (source, key) = (one_line(source), one_line(key));
                output.line(&format!("binding {source} --[{key}]--> {}", one_line(destination)))
            }),
            Self::Queue { names, .. } => {
                names.iter().try_for_each(|name| output.line(&format!("queue {}", one_line(name))))
            }
            Self::Bind { queue, exchange, key, .. } => key.iter().try_for_each(|key| {
                let exchange = exchange_name(exchange);
                let (queue, key) = (one_line(queue), one_line(key));
                output.line(&format!("binding {exchange} --[{key}]--> {queue}"))
            }),
        }
    }
}

/// What is declared now, durably.
#[derive(Serialize)]
#[serde(tag = "declared", rename_all = "lowercase")]
enum Json<'a> {
    Exchange { name: &'a str, kind: Kind },
    Queues { names: &'a [String] },
    Binding { queue: &'a str, exchange: &'a str, keys: &'a [String] },
    ExchangeBinding { destination: &'a str, source: &'a str, keys: &'a [String] },
}

impl<'a> From<&'a What> for Json<'a> {
    fn from(what: &'a What) -> Self {
        match what {
            What::Exchange { name, kind, .. } => Self::Exchange { name, kind: *kind },
            What::BindExchange { destination, source, key } => {
                Self::ExchangeBinding { destination, source, keys: key }
            }
            What::Queue { names, .. } => Self::Queues { names },
            What::Bind { queue, exchange, key, .. } => Self::Binding { queue, exchange, keys: key },
        }
    }
}
