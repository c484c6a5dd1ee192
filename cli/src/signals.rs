//! Signals: none of them ends the process in the middle of what it does for the store.
//!
//! `SIGPIPE` is ignored by the Rust runtime already; a write then fails with a broken pipe.

use std::sync::{Arc, atomic::AtomicBool};

use crate::failure::Failure;

/// After this a write past the file size limit fails with an error instead of killing us.
#[cfg(unix)]
pub(crate) fn survive_file_size_limit() -> Result<(), Failure> {
    // A handler that only sets a flag: the flag is of no interest, the write's error is.
    let unread = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, unread)
        .map(|_| ())
        .map_err(|error| Failure::io("signal handler", &error))
}

/// Returns a flag that is set by the first `SIGINT` or `SIGTERM`; a second one kills as usual.
#[cfg(unix)]
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    use signal_hook::{
        consts::{SIGINT, SIGTERM},
        flag::{register, register_conditional_default},
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the default action looks at the flag before this signal sets it.
        register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| register(signal, Arc::clone(&stop)))
            .map_err(|error| Failure::io("signal handler", &error))?;
    }
    Ok(stop)
}

/// There is no such limit here.
#[cfg(not(unix))]
pub(crate) fn survive_file_size_limit() -> Result<(), Failure> {
    Ok(())
}

/// A flag that nothing sets.
#[cfg(not(unix))]
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    Ok(Arc::new(AtomicBool::new(false)))
}
