//! What is known of a message that was handed out, without its bytes.
//!
//! A consumer may hold a message for days, and a queue may have many that came back: none of them
//! keeps memory, a map or a file alive. Whoever has the delivery itself keeps its bytes; a message
//! that is dealt again is read again.

use std::sync::Arc;

use fanlog_segment_format::Offset;

use super::{Earlier, Guard, Ready, reader::ready_in};
use crate::{Error, Result, core::Core, ledger::queue_ledger::Amount, log::Sought};

/// A message in a consumer's hands, or back from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) offset: Offset,
    /// Its ack covers `from..=offset`: what lies between is not this queue's.
    pub(crate) from: u64,
    pub(super) bytes: u32,
    pub(super) earlier: Earlier,
    pub(super) priority: u8,
    /// A transaction is going to ack it: nobody else settles it meanwhile.
    pub(super) in_transaction: bool,
}

impl Claim {
    /// What its ack counts: a damaged one has no bytes.
    pub(crate) fn amount(&self) -> Amount {
        Amount { messages: 1, bytes: u64::from(self.bytes) }
    }

    /// It was in somebody's hands: when it comes again it says so.
    pub(super) fn again(self) -> Self {
        Self { earlier: self.earlier.again(), in_transaction: false, ..self }
    }

    /// How often it was handed out, where it is in somebody's hands.
    pub(super) fn handed_out(&self) -> (Offset, u32) {
        (self.offset, self.earlier.again().count())
    }

    /// Reads the message again.
    ///
    /// # Errors
    ///
    /// If the log could not be read there.
    pub(crate) fn read(&self, core: &Core) -> Result<Ready> {
        let Claim { offset, from, earlier, .. } = *self;
        if let Sought::View(view) = core.log.seek(offset, &|_| true)?
            && view.end_offset() > offset
        {
            let number = view.lower_bound(offset);
            if number < view.messages() && view.offset_of(number) == offset {
                let guard = Arc::new(Guard::View(view.clone()));
                let copy = core.hands_out_copies(&view);
                return Ok(ready_in(&view, &guard, copy, number, from, earlier));
            }
        }
        Err(Error::Damaged {
            path: core.storage.path(""),
            position: 0,
            problem: format!("message {offset}, which is not acked, is not stored any more"),
        })
    }
}
