//! A disk that is full for a while.

use std::time::Duration;

use fanlog::{Error, ErrorKind, Message};

use super::{Stop, Work, World};

impl World {
    /// Publishes until there is no space for more, which has to be said in these words.
    ///
    /// # Errors
    ///
    /// If anything else is said, or the disk never gets full.
    pub fn fill_disk(&mut self) -> Work {
        let queue = self.model.topology.plain_queue().unwrap_or_default();
        for _ in 0..5000 {
            let bytes = 1000 + self.random.place(20_000);
            let id = self.model.offer("", &queue, bytes, false);
            let payload = self.model.payload(id);
            let publisher = self.engine().publisher();
            match publisher.publish(&Message::new("", &queue, &payload)) {
                Ok(ticket) => {
                    self.model.appended(id);
                    self.tickets.push((ticket, vec![id]));
                }
                Err(Error::OutOfSpace { .. }) => return self.settle_tickets(),
                Err(error) => return Err(self.failed("publish", error)),
            }
            self.step_when_full()?;
        }
        Err(Stop::Problem("the disk never got full".into()))
    }

    /// Works as far as a full disk allows.
    ///
    /// # Errors
    ///
    /// If anything but the want of space is complained of.
    pub fn step_when_full(&mut self) -> Work {
        self.clock.advance(Duration::from_millis(150));
        for _ in 0..20 {
            match self.engine().step() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if is_about_space(&error) => break,
                Err(error) => return Err(self.failed("step", error)),
            }
        }
        if self.engine().stats().poisoned {
            return Err(self.failed("step", "the want of space poisoned the engine"));
        }
        self.settle_tickets()
    }

    /// Receives and acks while the disk is full: what comes is right, and nothing fails.
    ///
    /// # Errors
    ///
    /// What goes wrong.
    pub fn consume_when_full(&mut self) -> Work {
        for _ in 0..40 {
            self.receive_and_keep()?;
        }
        Ok(())
    }
}

fn is_about_space(error: &Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let full = matches!(error, Error::Io { source, .. }
        if [StorageFull, QuotaExceeded, FileTooLarge].contains(&source.kind()));
    full || error.kind() == ErrorKind::OutOfSpace
}
