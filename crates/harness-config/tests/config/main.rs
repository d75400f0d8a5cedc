//! services.yaml in, a stack or diagnostics out.

mod diagnostics;
mod hostile;
mod meaning;
mod properties;
mod support;
