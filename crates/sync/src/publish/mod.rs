//! p
mod plan;
