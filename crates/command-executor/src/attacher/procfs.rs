//! The little that attaching needs of `/proc`.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A process as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
}

/// The processes of that name that are no zombies: the file name of the executable or of `argv[0]`, or the name the
/// process gave itself (which the kernel cuts to 15 bytes).
pub(super) fn named(name: &str) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // A process that ends meanwhile isn't there.
        let Ok(stat) = fs::read(entry.path().join("stat")) else { continue };
        let Some((comm, state, parent)) = parse(&stat) else { continue };
        if !matches!(state, b'Z' | b'X' | b'x') && (comm == name.as_bytes() || is_run_as(&entry.path(), name))
        {
            found.push(Process { pid, parent });
        }
    }
    Ok(found)
}

fn is_run_as(process: &Path, name: &str) -> bool {
    let executable = fs::read_link(process.join("exe")).ok();
    if executable.is_some_and(|path| path.file_name().is_some_and(|file| file.as_bytes() == name.as_bytes()))
    {
        return true;
    }
    let Ok(argv) = fs::read(process.join("cmdline")) else { return false };
    let first = argv.split(|byte| *byte == 0).next().unwrap_or_default();
    first.rsplit(|byte| *byte == b'/').next() == Some(name.as_bytes())
}

/// Name, state and parent of a line of `/proc/PID/stat`.
fn parse(stat: &[u8]) -> Option<(&[u8], u8, i32)> {
    // The name may hold anything, also brackets and spaces.
    let begin = memchr::memchr(b'(', stat)?;
    let end = memchr::memrchr(b')', stat)?;
    let mut fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some((stat.get(begin + 1..end)?, state, fields.next()?.parse().ok()?))
}

/// Of several processes, the one that started the others; `None` if there isn't exactly one.
pub(super) fn root(processes: &[Process]) -> Option<&Process> {
    let is_child = |process: &Process| processes.iter().any(|other| other.pid == process.parent);
    let mut roots = processes.iter().filter(|process| !is_child(process));
    let first = roots.next()?;
    roots.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_is_read() {
        assert_eq!(parse(b"12 (a) S (b)) R 7 1 1"), Some((&b"a) S (b)"[..], b'R', 7)));
        assert_eq!(parse(b"12 )("), None);
    }

    #[test]
    fn the_parent_of_its_workers_is_meant() {
        let process = |pid, parent| Process { pid, parent };
        assert_eq!(root(&[process(5, 4), process(4, 1), process(6, 4)]), Some(&process(4, 1)));
        assert_eq!(root(&[process(5, 1), process(4, 1)]), None);
        assert_eq!(root(&[]), None);
    }
}
