//! A value that most of its owners never need: made, on the heap, when it is first asked for.
//!
//! There may be a hundred thousand queues, and at any moment few of them have a consumer.

/// Nothing yet, or a value on the heap.
#[derive(Debug)]
pub(crate) struct OnDemand<T>(Option<Box<T>>);

impl<T> Default for OnDemand<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Default> OnDemand<T> {
    /// The value, if it was made.
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_deref()
    }

    /// The value, if it was made, to change it.
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// The value, made now if need be.
    pub(crate) fn make(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }

    /// Gives it up; the next one is made anew.
    pub(crate) fn forget(&mut self) {
        self.0 = None;
    }
}
