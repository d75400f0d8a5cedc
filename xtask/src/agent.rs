//! Builds the program that agents are: one that needs nothing of the machine that it is copied to.

use crate::shell::{self, Failure};
use std::fs;

/// What can be typed behind `agent`.
const USAGE: &str = "usage: cargo xtask agent [--target TRIPLE]";

/// Where the programs lie; `HARNESS_AGENT_DIR` is to name it.
const FOLDER: &str = "target/agents";

/// Builds `target/agents/harness-ARCH`, linked statically, for this machine's kind or the target that is named.
///
/// # Errors
/// When the target isn't installed, or the build fails.
pub(crate) fn agent(arguments: &[&str]) -> Result<(), Failure> {
    let target = match arguments {
        [] => shell::host_triple()?,
        ["--target", target] => (*target).to_owned(),
        _ => return Err(Failure::new(USAGE)),
    };
    let arch = arch_of(&target).ok_or_else(|| Failure::new(format!("{target} is no target for Linux")))?;
    // Named also where it is this machine's, so that the flags aren't for what runs while building.
    let words =
        ["build", "--release", "--locked", "-p", "harness", "--bin", "harness", "--target", target.as_str()];
    let mut build = shell::cargo(&words);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    let hint = format!("is the target there? `rustup target add {target}`, and a linker for it");
    shell::run(&mut build).map_err(|failure| Failure::new(format!("{failure}\n{hint}")))?;
    let root = shell::root();
    let (from, folder) = (root.join("target").join(&target).join("release/harness"), root.join(FOLDER));
    let to = folder.join(format!("harness-{arch}"));
    let failed = |error| Failure::new(format!("{} can't be written: {error}", to.display()));
    fs::create_dir_all(&folder).and_then(|()| fs::copy(&from, &to)).map_err(failed)?;
    println!("{FOLDER}/harness-{arch}: name the folder in HARNESS_AGENT_DIR, by its whole path");
    Ok(())
}

/// The kind of machine, as `uname -m` says it there.
fn arch_of(target: &str) -> Option<&str> {
    let (arch, rest) = target.split_once('-')?;
    let arch = match arch {
        "armv7" => "armv7l",
        "powerpc64le" => "ppc64le",
        "riscv64gc" => "riscv64",
        other => other,
    };
    rest.contains("linux").then_some(arch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_as_machines_name_themselves() {
        for (target, arch) in [
            ("x86_64-unknown-linux-gnu", Some("x86_64")),
            ("aarch64-unknown-linux-musl", Some("aarch64")),
            ("armv7-unknown-linux-musleabihf", Some("armv7l")),
            ("riscv64gc-unknown-linux-gnu", Some("riscv64")),
            ("x86_64-apple-darwin", None),
            ("x86_64", None),
        ] {
            assert_eq!(arch_of(target), arch, "{target}");
        }
    }
}
