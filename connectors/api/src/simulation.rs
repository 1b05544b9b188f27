//! What only the simulator needs of production code, compiled in by the feature `simulation` and to nothing without it:
//! a host that owns whatever one simulated process runs ([`host`]), and deliberate faults that prove that the
//! simulator sees them ([`sabotage`]). A released worker has neither.

pub mod host;
pub mod sabotage;
