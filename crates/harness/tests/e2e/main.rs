//! The real program with real processes, as a user runs it. Each test has a project and a state folder of its own.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

mod adoption;
mod ambassadors;
mod badluck;
mod clients;
mod commands;
mod concurrency;
mod config;
mod containers;
mod examples;
mod exec;
mod footing;
mod formats;
mod hosts;
mod life;
mod logs;
mod mistakes;
mod network;
mod nodes;
mod package_services;
mod packages;
mod registry;
mod supervision;
mod tcp;
mod terminal;
mod upgrade;
mod usage;
mod zone;
