//! The real program with real processes, as a user runs it. Each test has a project and a state folder of its own.

mod support;

mod adoption;
mod badluck;
mod concurrency;
mod life;
mod supervision;
mod commands;
mod config;
mod examples;
mod exec;
mod logs;
mod terminal;
mod usage;
mod mistakes;
