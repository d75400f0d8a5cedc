//! Who may come in by TCP: tokens, and a brake for those who guess.

mod slow;
mod token;

pub(crate) use slow::Slowdown;
pub(crate) use token::{Denied, Pass};
pub use token::{NewToken, Secret, TokenError, TokenInfo, Tokens};
