//! Room for what is placed as one: in the buffers, and, where it is large, on the disk.

use std::sync::MutexGuard;

use crate::{
    Error, Result,
    append::{Appender, Need},
    core::Core,
    supply::Promise,
};

/// What to do where there is no room.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Wait {
    AsConfigured,
    Never,
}

/// Waits, or does not, until there is room in the buffers. Returns with the append lock, and with the
/// room on the disk that is promised to what is larger than all that is kept.
///
/// # Errors
///
/// [`Error::Full`], [`Error::OutOfSpace`], or what the engine ended with.
pub(super) fn room_for(
    core: &Core,
    need: Need,
    wait: Wait,
) -> Result<(MutexGuard<'_, Appender>, Option<Promise>)> {
    loop {
        let promise = core.supply.promise_large(core, need.bytes)?;
        let (state, promised) = (core.append.lock(), promise.is_some());
        if wait == Wait::Never {
            return Ok((at_once(core, state, need)?, promise));
        }
        match core.wait_for_room(state, need, promised) {
            Err(Error::OutOfSpace { .. }) if promised && core.append.waits_when_full() => {
                // The reserve is made whole first: L3.
                drop(promise);
                let nothing = Need { bytes: 0, messages: 0 };
                drop(core.wait_for_room(core.append.lock(), nothing, false)?);
            }
            outcome => return Ok((outcome?, promise)),
        }
    }
}

fn at_once<'a>(
    core: &Core,
    mut state: MutexGuard<'a, Appender>,
    need: Need,
) -> Result<MutexGuard<'a, Appender>> {
    if let Some(end) = &state.end {
        return Err(end.clone());
    }
    if !core.append.has_room(&state, need) {
        core.append.wake_committer(&mut state);
        return Err(core.append.full(&state));
    }
    Ok(state)
}
