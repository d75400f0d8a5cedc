//! The real program with real processes, as a user runs it. Each test has a project and a state folder of its own.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

mod badluck;
mod commands;
mod config;
mod examples;
mod concurrency;
mod exec;
mod life;
mod logs;
mod mistakes;
mod supervision;
mod terminal;
mod usage;
mod adoption;
mod upgrade;
mod footing;
mod formats;
