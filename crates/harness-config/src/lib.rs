//! harness-config
