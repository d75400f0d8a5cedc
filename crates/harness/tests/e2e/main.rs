//! The real program with real processes, as a user runs it. Each test has a project and a state folder of its own.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

mod adoption;
mod badluck;
mod commands;
mod concurrency;
mod config;
mod examples;
mod exec;
mod footing;
mod formats;
mod life;
mod logs;
mod mistakes;
mod supervision;
mod terminal;
mod upgrade;
mod usage;
