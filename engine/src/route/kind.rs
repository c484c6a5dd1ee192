//! How an exchange chooses among its bindings.

/// How an exchange chooses among its bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExchangeKind {
    /// Every bound queue gets every message; routing keys are not looked at.
    Fanout,
    /// Queues bound with exactly the message's routing key get it.
    Direct,
    /// Queues bound with a pattern that matches the message's routing key get it. Keys and patterns
    /// are words with dots between them; in a pattern `*` stands for one word and `#` for any number
    /// of words, also none. The empty key has no word; `a.` has two, the second of them empty.
    Topic,
    /// Queues bound with arguments that match the message's headers get it; routing keys are not
    /// looked at. Headers and arguments are [`Table`](crate::Table)s. The argument `x-match` says
    /// whether `all` of the others have to be among the headers, with the same type and value, which
    /// is the default, or `any`; those whose names begin with `x-` count only with `all-with-x` or
    /// `any-with-x`. An argument without a value asks for a header of that name.
    Headers,
}

impl ExchangeKind {
    /// The number that stands for it on disk.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Fanout => 1,
            Self::Direct => 2,
            Self::Topic => 3,
            Self::Headers => 4,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Fanout),
            2 => Some(Self::Direct),
            3 => Some(Self::Topic),
            4 => Some(Self::Headers),
            _ => None,
        }
    }

    /// Its name: `"fanout"`, `"direct"`, `"topic"`, `"headers"`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fanout => "fanout",
            Self::Direct => "direct",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
}
