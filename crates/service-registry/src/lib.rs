//! Who is where, told to all.

pub mod model;
