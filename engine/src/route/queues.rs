//! Declaring and deleting queues.

use fanlog_segment_format::{ExchangeId, GroupId, QueueId, control::Control};

use super::{
    Change, NamedQueue, Tables,
    change::{Records, check_name},
    exchanges::check_not_reserved,
    refused, take_id,
};
use crate::{History, QueueOptions, Result, gate::Gate, history::HISTORY};

impl NamedQueue {
    pub(super) fn new(
        id: QueueId,
        name: &str,
        own: GroupId,
        options: Option<Box<QueueOptions>>,
    ) -> Self {
        let name = name.into();
        let gate = options.as_ref().and_then(|options| Gate::of(id, &name, options));
        Self { name, own, history_of: None, bound: Vec::new(), options, gate }
    }

    /// The history of an exchange.
    pub(super) fn history(self, of: ExchangeId) -> Self {
        Self { history_of: Some(of), ..self }
    }
}

impl Tables {
    pub(super) fn declare_queue(
        &mut self,
        name: &str,
        options: &QueueOptions,
        records: &mut Records<'_>,
    ) -> Result<()> {
        check_name("queue", name)?;
        options.validate()?;
        if let Some(id) = self.queue_ids.get(name) {
            return self.options(*id).check_same(name, options);
        }
        if self.granted.take().is_none_or(|granted| granted != name) {
            check_not_reserved("queue", name)?;
        }
        let id = QueueId(take_id(&mut self.next.queue, "queue")?);
        let group = GroupId(take_id(&mut self.next.group, "binding group")?);
        records.push(&Control::QueueDeclare {
            queue: id,
            group,
            flags: options.flags(),
            from: records.at,
            name,
            arguments: options.to_arguments().as_bytes(),
        });
        self.add_queue(id, NamedQueue::new(id, name, group, options.kept()));
        Ok(())
    }

    /// Makes the queue of what an exchange keeps.
    pub(super) fn declare_history(
        &mut self,
        of: ExchangeId,
        name: &str,
        history: History,
        records: &mut Records<'_>,
    ) -> Result<()> {
        let id = QueueId(take_id(&mut self.next.queue, "queue")?);
        let group = GroupId(take_id(&mut self.next.group, "binding group")?);
        let options = history.queue_options();
        records.push(&Control::QueueDeclare {
            queue: id,
            group,
            flags: options.flags() | HISTORY,
            from: records.at,
            name,
            arguments: options.to_arguments().as_bytes(),
        });
        self.add_queue(id, NamedQueue::new(id, name, group, options.kept()).history(of));
        Ok(())
    }

    /// Adds a queue that was declared before.
    pub(super) fn declare_queue_again(&mut self, id: QueueId, flags: u32, queue: NamedQueue) {
        if flags & HISTORY == 0 {
            self.add_queue(id, queue);
        } else if let Some(&of) = self.exchange_ids.get(&queue.name) {
            self.add_queue(id, queue.history(of));
        }
    }

    /// Whether a change leaves exclusive queues to their owners.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`](crate::Error::Refused).
    pub(crate) fn check_shared(&self, change: &Change<'_>) -> Result<()> {
        let (what, name) = match *change {
            Change::DeclareQueue { name, options } if options.exclusive => {
                let why = "it has no owner: that is what `declare_exclusive_queue` is for";
                return Err(refused(&format!("declare of exclusive queue {name:?}"), why));
            }
            Change::DeclareQueue { name, .. } => ("declare", name),
            Change::DeleteQueue { name } => ("delete", name),
            _ => return Ok(()),
        };
        if self.queue_ids.get(name).is_some_and(|&id| self.options(id).exclusive) {
            let why = "it is exclusive, and another's";
            return Err(refused(&format!("{what} of queue {name:?}"), why));
        }
        Ok(())
    }

    /// The options of a queue that exists.
    fn options(&self, id: QueueId) -> &QueueOptions {
        let options = self.queues.get(&id).and_then(|queue| queue.options.as_deref());
        options.unwrap_or(QueueOptions::plain())
    }

    pub(super) fn delete_queue(&mut self, name: &str, records: &mut Records<'_>) -> Result<()> {
        let id = self.queue(name)?;
        let bound = self.queues.get(&id).map(|queue| queue.bound.as_slice()).unwrap_or_default();
        let groups = bound.iter().filter_map(|group| self.groups.get(group));
        let exchanges: Vec<_> = groups.map(|group| group.exchange).collect();
        self.remove_queue(id);
        records.push(&Control::QueueDelete { queue: id });
        self.tidy(exchanges, records);
        Ok(())
    }

    /// Forgets a queue that did not survive a restart.
    pub(crate) fn forget_queue(&mut self, id: QueueId) {
        self.remove_queue(id);
        self.keep_changes();
    }

    /// Forgets a queue, its route and its bindings.
    pub(super) fn remove_queue(&mut self, id: QueueId) {
        let Some(found) = self.queues.get(&id) else { return };
        for group in found.bound.clone() {
            self.leave(group, id);
        }
        self.take_queue(id);
    }
}
