//! command-executor
