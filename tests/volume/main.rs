//! Volume: what is kept on disk and in memory while much goes through and little stays.
//!
//! Small by default; `FANLOG_VOLUME=full` runs them as large as the promises are (minutes, and
//! gigabytes in the directory for temporary files, or in `FANLOG_DIR`).

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
#![expect(clippy::print_stdout, reason = "what a large run found is to be seen")]

mod flow;
mod limited;
mod stuck;
