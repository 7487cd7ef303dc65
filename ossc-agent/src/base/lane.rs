//! Why a block is wanted, which is also how soon. Used by `fetch` to choose work and by logs.

/// Priority of a fetch; the order of the variants is the rule: earlier beats later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// A reader is held until the block is there.
    Demand,
    /// The learned or default order says a reader will want it soon.
    Planned,
    /// The rest of the model, in file order.
    Background,
}

impl Lane {
    /// All of them, the most urgent first: `lane as usize` is its place here.
    pub const ALL: [Self; 3] = [Self::Demand, Self::Planned, Self::Background];

    /// Lower-case name for logs, audit and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Planned => "planned",
            Self::Background => "background",
        }
    }
}
