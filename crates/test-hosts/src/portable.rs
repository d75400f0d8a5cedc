//! Images for `portablectl`.

use crate::{Error, Host};

/// What a folder for `portablectl attach` holds. Programs in it: `/usr/bin/busybox`, whose first argument says what it is
/// (`ExecStart=/usr/bin/busybox httpd -f -p 8080`).
#[derive(Clone, Debug)]
pub struct Portable<'a> {
    /// The folder to make, absolute. Its last part is the image's name, such as `hello_1.0`. `portablectl reattach` finds
    /// the older version only below `/var/lib/portables`.
    pub folder: &'a str,
    /// What its units' names begin with.
    pub prefix: &'a str,
    /// Names and texts of its units.
    pub units: &'a [(&'a str, &'a str)],
    /// Other files: absolute paths inside and their texts.
    pub files: &'a [(&'a str, &'a str)],
}

impl Host {
    /// Makes the folder there, anew if it is there.
    ///
    /// # Errors
    /// As [`Host::exec`].
    pub fn make_portable(&self, image: &Portable<'_>) -> Result<(), Error> {
        let script = r#"set -eu
            rm -rf "$1"
            mkdir -p "$1"; cd "$1"
            mkdir -p etc proc sys dev run tmp var/tmp usr/bin usr/lib/systemd/system
            cp /usr/bin/busybox usr/bin/
            : > etc/resolv.conf
            : > etc/machine-id
            printf 'ID=%s\nPORTABLE_PREFIXES=%s\n' "$2" "$2" > usr/lib/os-release
            ln -s ../usr/lib/os-release etc/os-release"#;
        self.exec(&["sh", "-c", script, "sh", image.folder, image.prefix])?;
        for (name, text) in image.units {
            self.write(&format!("{}/usr/lib/systemd/system/{name}", image.folder), text)?;
        }
        for (path, text) in image.files {
            self.write(&format!("{}{path}", image.folder), text)?;
        }
        Ok(())
    }
}
