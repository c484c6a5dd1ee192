//! Exchanges and the bindings between them. The ledger only keeps them: what they route is decided
//! before a message is in the log.

use fanlog_segment_format::{
    checkpoint::{ExchangeBindingEntry, ExchangeEntry},
    control::Control,
};

use super::Ledger;

impl Ledger {
    /// Takes note of a record that speaks of exchanges alone; of no other.
    pub(super) fn apply_to_exchange(&mut self, control: &Control<'_>) {
        match *control {
            Control::ExchangeDeclare { exchange: id, kind, flags, name, arguments } => {
                self.next.exchange = self.next.exchange.max(id.0.saturating_add(1));
                let (name, arguments) = (name.to_owned(), arguments.to_vec());
                self.exchanges.insert(id, ExchangeEntry { id, kind, flags, name, arguments });
            }
            Control::ExchangeDelete { exchange } => {
                self.exchange_goes(exchange);
                self.exchanges.remove(&exchange);
                self.exchange_bindings.retain(|binding| {
                    binding.source != exchange && binding.destination != exchange
                });
                self.groups.retain(|_, group| {
                    group.entry.as_ref().is_none_or(|entry| entry.exchange != exchange)
                });
            }
            Control::ExchangeBind { source, destination, key, arguments } => {
                let (key, arguments) = (key.to_vec(), arguments.to_vec());
                let entry = ExchangeBindingEntry { source, destination, key, arguments };
                self.exchange_bindings.insert(entry);
            }
            Control::ExchangeUnbind { source, destination, key, arguments } => {
                let (key, arguments) = (key.to_vec(), arguments.to_vec());
                let entry = ExchangeBindingEntry { source, destination, key, arguments };
                self.exchange_bindings.remove(&entry);
            }
            _ => {}
        }
    }
}
