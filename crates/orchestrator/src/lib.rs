//! What is next for a stack of services: pure decisions, and the engine that carries them out.
//!
//! # Theory of operation
//!
//! A [`model::Stack`] says what could run, a [`plan::Desired`] what should, an [`observed::Observed`] what does.
//! [`plan::plan`] is a pure function of the three and the time, to a list of steps. The [`supervisor`] is the one loop:
//! it takes an event (a command, a report of a keeper, a probe's answer, the clock), changes what is desired or observed,
//! asks for the plan, issues its steps to the [`node`] engine, and tells the registry what is. Handling an event is
//! synchronous; what takes time runs elsewhere and comes back as an event.
//!
//! The rooms from [`model`] to [`network`] are pure: no clock, no randomness, no IO. [`node`] and [`supervisor`] have
//! effects, and decide nothing.

pub mod model;

pub mod graph;

pub mod health;
pub mod observed;

pub mod plan;

pub mod command;

pub mod network;

pub mod view;

pub mod node;

pub mod supervisor;

#[cfg(test)]
mod testing;
