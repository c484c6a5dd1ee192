//! One visit that only looks: what is stored and not acked, in order, without a mark.

use fanlog::{Browsed, Engine};

use super::{Consume, Run, Visit, line::Line};
use crate::{failure::Failure, store};

/// Remembers what was printed, for `--follow`.
#[derive(Default)]
pub(super) struct Peek {
    next_offset: u64,
}

impl Peek {
    /// Prints what the last visit did not, at most `run.left` messages.
    pub(super) fn visit(&mut self, command: &Consume, run: &mut Run) -> Result<Visit, Failure> {
        let opened = store::look_around(&command.dir, command.damage.choice());
        let looked = opened
            .and_then(|engine| store::session(engine, |engine| self.browse(engine, command, run)));
        match looked {
            Ok(took) => Ok(Visit::Took(took)),
            Err(failure) => command.opened_elsewhere(failure),
        }
    }

    fn browse(
        &mut self,
        engine: &Engine,
        command: &Consume,
        run: &mut Run,
    ) -> Result<u64, Failure> {
        if run.gaps == 0 {
            // What is damaged stays so: it is told once.
            run.gaps = store::tell_gaps(engine, &command.dir);
        }
        let mut took = 0;
        for browsed in engine.browse(&command.queue)? {
            let browsed = browsed?;
            if browsed.acked || browsed.offset.0 < self.next_offset {
                continue;
            }
            if run.left == 0 || run.is_stopped() {
                break;
            }
            show(&browsed, command, run)?;
            self.next_offset = browsed.offset.0 + 1;
            took += 1;
        }
        run.output.flush()?;
        Ok(took)
    }
}

fn show(browsed: &Browsed, command: &Consume, run: &mut Run) -> Result<(), Failure> {
    if let Some(damage) = &browsed.damage {
        command.tell_damage(damage);
        run.damaged += 1;
        return Ok(());
    }
    run.left -= 1;
    Line::of_browsed(browsed).print(&mut run.output, command.json)
}
