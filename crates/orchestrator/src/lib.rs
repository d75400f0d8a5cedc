//! What is next for a stack of services: pure decisions, and the engine that carries them out.

pub mod model;
