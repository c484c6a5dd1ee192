//! A bar on standard error for long work; hidden where that is not a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// Says how far some work on bytes has come.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// `what` is done to the bytes, in a word: `checking`.
    pub(crate) fn new(what: &'static str) -> Self {
        let style = ProgressStyle::with_template(
            "{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        )
        .expect("the template is fixed and valid");
        let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
        bar.set_message(what);
        Self { bar }
    }

    pub(crate) fn show(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
