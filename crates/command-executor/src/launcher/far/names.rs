//! Which variables a shell can hand on as they are.

use super::refuse;
use crate::command::Command;
use crate::launcher::LaunchError;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Names that some shell there gives a meaning of its own: a value would be refused or changed.
const SPECIAL: [&str; 27] = [
    "_",
    "BASHOPTS",
    "BASHPID",
    "BASH_ARGC",
    "BASH_ARGV",
    "BASH_COMMAND",
    "BASH_LINENO",
    "BASH_SOURCE",
    "BASH_SUBSHELL",
    "BASH_VERSINFO",
    "COMP_WORDBREAKS",
    "DIRSTACK",
    "EPOCHREALTIME",
    "EPOCHSECONDS",
    "EUID",
    "FUNCNAME",
    "GROUPS",
    "HISTCMD",
    "LINENO",
    "OPTIND",
    "PPID",
    "RANDOM",
    "SECONDS",
    "SHELLOPTS",
    "SRANDOM",
    "UID",
    "BASH_CMDS",
];

/// Refuses a variable that wouldn't arrive as it is.
pub(super) fn refuse_name(command: &Command, name: &OsStr) -> Result<(), LaunchError> {
    let refused = |why: &str| Err(refuse(command, format!("the variable {} {why}", name.display())));
    let bytes = name.as_bytes();
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if bytes.first().is_none_or(u8::is_ascii_digit) || !bytes.iter().all(is_word) {
        return refused("has a name that no shell can set; names are letters, digits and _");
    }
    if SPECIAL.iter().any(|special| special.as_bytes() == bytes) {
        return refused("means something else to the shell there; use another name");
    }
    if bytes.starts_with(b"_h") {
        return refused("begins with _h, as those of the shell that starts it do; use another name");
    }
    Ok(())
}
