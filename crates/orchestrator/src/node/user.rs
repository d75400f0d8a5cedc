//! Users and groups of this machine by name or number.

use command_executor::command::UserIds;
use std::fs;

/// The ids of `user` and `group`; the user's own group where none is named. `None` if neither is named.
pub(super) fn user_ids(user: Option<&str>, group: Option<&str>) -> Result<Option<UserIds>, String> {
    if user.is_none() && group.is_none() {
        return Ok(None);
    }
    let (uid, own_gid) = match user {
        Some(user) => ids_of(user)?,
        None => (None, None),
    };
    let gid = match group {
        Some(group) => Some(gid_of(group)?),
        None => own_gid,
    };
    let me = || fs::metadata("/proc/self").map_err(|error| format!("/proc/self: {error}"));
    use std::os::unix::fs::MetadataExt;
    Ok(Some(UserIds {
        uid: uid.map_or_else(|| me().map(|meta| meta.uid()), Ok)?,
        gid: gid.map_or_else(|| me().map(|meta| meta.gid()), Ok)?,
    }))
}

fn ids_of(user: &str) -> Result<(Option<u32>, Option<u32>), String> {
    let text = fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
    let number = user.parse::<u32>().ok();
    for line in text.lines() {
        let mut fields = line.split(':');
        let name = fields.next();
        let uid = fields.nth(1).and_then(|uid| uid.parse().ok());
        let gid = fields.next().and_then(|gid| gid.parse().ok());
        if name == Some(user) || (number.is_some() && number == uid) {
            return Ok((uid, gid));
        }
    }
    number.map(|uid| (Some(uid), None)).ok_or_else(|| format!("there is no user {user}"))
}

fn gid_of(group: &str) -> Result<u32, String> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let text = fs::read_to_string("/etc/group").map_err(|error| format!("/etc/group: {error}"))?;
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find_map(|fields| match fields.as_slice() {
        [name, _, gid, ..] if *name == group => gid.parse().ok(),
        _ => None,
    });
    found.ok_or_else(|| format!("there is no group {group}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_by_name_and_number_and_nonsense_is_not() {
        let root = Some(UserIds { uid: 0, gid: 0 });
        assert_eq!(user_ids(Some("root"), None), Ok(root));
        assert_eq!(user_ids(Some("0"), Some("root")), Ok(root));
        assert_eq!(user_ids(None, None), Ok(None));
        assert_eq!(user_ids(Some("no-such-user"), None), Err("there is no user no-such-user".into()));
        assert_eq!(user_ids(None, Some("no-such-group")), Err("there is no group no-such-group".into()));
    }
}
