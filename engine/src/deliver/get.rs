//! Taking one message without a subscription, and looking at what is ready without taking it.

use std::sync::{Arc, PoisonError};

use event_listener::Listener;

use super::{
    ConsumerOptions, ConsumerShared, Delivery, Dispatch, Limits, Next, Payload, Reader, Ready,
    next_to_deal, overdue, source::ReadyIn, waited::Since,
};
use crate::{Browsed, Error, Result, core::Core, queue::Queue};

/// What whoever gets a message is called, where a consumer's tag is told.
const TAG: &str = "basic.get";

/// What a look found.
enum Found {
    Message(Delivery),
    /// There is one, and something has to be in the log before it is handed out.
    Waits,
    Nothing,
}

/// Whoever gets one message: among the holders of the queue's messages, but no consumer.
struct Getter {
    shared: Arc<ConsumerShared>,
    /// It stood among those that sleep.
    announced: bool,
}

/// Takes the next ready message of a queue; `None` if there is none.
///
/// # Errors
///
/// [`Error::Refused`] if the queue has a single active consumer; that of the log, or of the engine's
/// end.
pub(crate) fn get(core: &Arc<Core>, queue: &Arc<Queue>) -> Result<Option<Delivery>> {
    if queue.options().single_active_consumer {
        let what = format!("get from queue {:?}", queue.name);
        return Err(Error::Refused { what, why: "it has a single active consumer".to_owned() });
    }
    core.limits.used(core, queue);
    let mut getter = Getter::new(core, queue);
    let mut listener = None;
    loop {
        if let Some(ended) = core.ended() {
            return Err(ended);
        }
        if queue.is_gone() {
            let name = queue.name.to_string();
            return Err(Error::NotFound { what: "queue", name });
        }
        match getter.look()? {
            Found::Message(delivery) => return Ok(Some(delivery)),
            Found::Nothing => return Ok(None),
            Found::Waits => {}
        }
        match listener.take() {
            // It looks once more before it sleeps (S1).
            None => {
                listener = Some(getter.shared.listen());
                getter.shared.announce();
                getter.announced = true;
            }
            Some(_) if core.config.stepped => {
                if !core.drive() {
                    return Err(Error::Timeout);
                }
            }
            Some(listener) => listener.wait(),
        }
    }
}

impl Getter {
    fn new(core: &Arc<Core>, queue: &Arc<Queue>) -> Self {
        let options = ConsumerOptions::prefetch(1);
        let shared = ConsumerShared::new(core, queue, TAG.to_owned(), &options);
        let shared = Arc::new(shared.for_one());
        let mut dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        dispatch.make().getters.make().push(Arc::clone(&shared));
        overdue::watch(core, queue);
        drop(dispatch);
        Self { shared, announced: false }
    }

    fn look(&self) -> Result<Found> {
        let getter = &self.shared;
        // Before the look: whatever it lacks, it is woken for it.
        getter.queue.awaits_log();
        let mut dispatch = getter.queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
        let dispatch_made = dispatch.make();
        if !dispatch_made.goes_on(&getter.queue) {
            return Ok(Found::Waits);
        }
        let has_mail = getter.hand().has_mail();
        if !has_mail {
            dispatch_made.shorten(&getter.core, &getter.queue)?;
            let alone = dispatch_made.consumers() == 0;
            let Dispatch { source, leaving, roster, .. } = dispatch_made;
            let since = || roster.get()?.waited_since(false);
            let limits = Limits::of(&getter.queue);
            let next = next_to_deal(&getter.core, &getter.queue, source, leaving, limits, &since)?;
            source.tell_of_old(&getter.core, &getter.queue);
            if alone {
                source.rest();
            }
            match next {
                Next::Message(ready, _) => getter.hand().put(ready),
                Next::Waits => return Ok(Found::Waits),
                Next::Nothing => return Ok(Found::Nothing),
            }
        }
        drop(dispatch);
        let Some((tag, ready)) = getter.fetch() else { return Ok(Found::Waits) };
        getter.core.stats.delivered(1, u64::from(ready.earlier.any()));
        Ok(Found::Message(Delivery::new(Arc::clone(getter), tag, ready)))
    }
}

impl Drop for Getter {
    fn drop(&mut self) {
        let getter = &self.shared;
        if self.announced {
            getter.queue.sleepers.remove(getter);
        }
        let has_mail = getter.hand().has_mail();
        if has_mail {
            // What it did not fetch goes back.
            getter.close();
        } else {
            getter.settled();
        }
        if self.announced && !getter.is_up() {
            // It may have been woken in the place of a consumer.
            getter.queue.sleepers.wake_one();
        }
    }
}

/// The next `most` ready messages of a queue, in order. Nothing is taken or marked.
///
/// # Errors
///
/// If the log could not be read.
pub(crate) fn peek(core: &Core, queue: &Arc<Queue>, most: usize) -> Result<Vec<Browsed>> {
    let mut dispatch = queue.dispatch.lock().unwrap_or_else(PoisonError::into_inner);
    let since = dispatch.get().and_then(|dispatch| dispatch.waited_since(queue));
    let mut levels = dispatch.get_mut().map_or_else(Vec::new, |dispatch| {
        // After a rewind it is shown what the cursors will come to; during one, as it is.
        let _goes_on = dispatch.goes_on(queue);
        dispatch.source.ready(most)
    });
    drop(dispatch);
    if levels.is_empty() {
        let readers = Reader::of_levels(queue).into_iter().rev();
        levels.extend(readers.map(|reader| ReadyIn { returned: Vec::new(), reader }));
    }
    let mut found = Vec::new();
    for level in levels {
        if found.len() < most {
            found.extend(ready_of(core, queue, level, since, most - found.len())?);
        }
    }
    Ok(found)
}

/// The next `most` ready messages of one level.
fn ready_of(
    core: &Core,
    queue: &Queue,
    level: ReadyIn,
    since: Option<Since>,
    most: usize,
) -> Result<Vec<Browsed>> {
    let ReadyIn { returned, mut reader } = level;
    let mut found = Vec::new();
    let limits = Limits::of(queue);
    let waited = |ready: &Ready| since.is_some_and(|since| since.is_before(ready));
    for claim in returned {
        let ready = claim.read(core)?;
        let stays = limits.verdict(core, &ready, || false).is_none();
        found.extend(stays.then(|| show(&ready)));
    }
    let end = found.len().saturating_add(most);
    while found.len() < end {
        let ready = if reader.peek_due(core, queue)?.is_some() {
            reader.take_due(core, queue)
        } else if reader.peek(core, queue)?.is_some() {
            reader.take(core, queue)
        } else {
            None
        };
        let Some(ready) = ready else { break };
        let stays = limits.verdict(core, &ready, || waited(&ready)).is_none();
        found.extend(stays.then(|| show(&ready)));
    }
    // What fell due may stand before what came back.
    found.sort_by_key(|one: &Browsed| one.offset);
    found.truncate(most);
    Ok(found)
}

fn show(ready: &Ready) -> Browsed {
    Browsed {
        offset: ready.offset,
        acked: false,
        routing_key: ready.fields.key.of(ready.guard.bytes()).to_vec(),
        payload: Payload::new(Arc::clone(&ready.guard), ready.fields),
        damage: ready.damage.as_deref().cloned(),
    }
}
