//! `harness package`.

use super::{Context, examples};
use crate::error::{CommandError, next_steps};
use crate::exit::Exit;
use crate::packages::{self, Opened, PackageError, READ};
use crate::ui::describe;
use crate::ui::meter::{Meter, bytes};
use crate::ui::style;
use crate::ui::table::Table;
use harness_config::{read_manifest, render, to_json};
use rustix::rand::GetRandomFlags;
use serde::Serialize;
use service_registry::package::build::{Built, Contents};
use service_registry::package::install::Status;
use service_registry::package::manifest::{self, Manifest};
use service_registry::package::sign::{SecretKey, SignError};
use service_registry::package::unpack::Package;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Build packages, look into them, sign and check them
#[derive(clap::Args, Debug)]
#[command(before_help = examples![
    "harness package build ./web                     ./web/manifest.yaml and what lies beside it, as NAME-VERSION.tar.zst"
    "harness package build ./web --sign web.key      And its signature beside it"
    "harness package verify web-1.2.0.tar.zst --key web.pub"
    "harness package keygen web.key                  A pair of keys: web.key and web.key.pub"
    "harness package list                            What is installed, and what is current"
])]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Pack a folder: its manifest.yaml, bin, config, lib, scripts and share. The same folder gives the same bytes
    Build(Build),
    /// Show what a package says of itself and holds
    Inspect {
        /// The package
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Check a package as `deploy` does: everything in it against its manifest, and its signature
    Verify {
        /// The package
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The public key whose signature it must have: a file as minisign has it, or its second line
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
    /// Make a pair of keys, as minisign has them
    Keygen {
        /// Where the secret key is written; the public one is written beside it, with .pub at its end
        #[arg(value_name = "FILE", default_value = "harness.key")]
        file: PathBuf,
    },
    /// List the packages that are installed
    List {
        /// Where they are installed
        #[arg(long, value_name = "FOLDER")]
        prefix: Option<PathBuf>,
    },
}

#[derive(clap::Args, Debug)]
struct Build {
    /// The folder
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Where the package is written [default: NAME-VERSION.tar.zst, here]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Sign it with this secret key
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
    /// Show what would be packed, and write nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit, CommandError> {
    match &args.command {
        Command::Build(args) => build(context, args),
        Command::Inspect { file } => inspect(context, file),
        Command::Verify { file, key } => verify(context, file, key.as_deref()),
        Command::Keygen { file } => keygen(context, file),
        Command::List { prefix } => list(context, prefix.as_deref()),
    }
}

#[derive(Serialize)]
struct PackageDocument<'a> {
    schema: u32,
    file: &'a Path,
    sha256: String,
    size: u64,
    unpacked: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<&'a Path>,
    manifest: &'a Manifest,
}

fn build(context: &Context, args: &Build) -> Result<Exit, CommandError> {
    let Some(manifest) = manifest_of(context, &args.folder)? else {
        return Err(CommandError::said(Exit::USAGE));
    };
    // Before the work: a key that is no good would make it for nothing.
    let key = args.sign.as_deref().map(secret_key).transpose()?;
    let contents = Contents::of(&args.folder).map_err(PackageError::from)?;
    if args.dry_run {
        return planned(context, &contents, &manifest);
    }
    let path = args.file.clone().unwrap_or_else(|| format!("{}.tar.zst", manifest.stem()).into());
    let mut meter = Meter::new(&context.ui, format!("packing {}", manifest.stem()));
    let built = contents.pack(manifest, &path, &mut |progress| {
        meter.at(progress.done, progress.total);
        true
    });
    drop(meter);
    let built = built.map_err(PackageError::from)?;
    let signature = key.map(|key| sign(&built, &key)).transpose()?;
    if !context.ui.is_table() {
        context.ui.document(&PackageDocument {
            schema: 1,
            file: &built.path,
            sha256: built.digest.to_string(),
            size: built.packed,
            unpacked: built.unpacked,
            signature: signature.as_deref(),
            manifest: &built.manifest,
        })?;
        return Ok(Exit::OK);
    }
    let Built { path, packed, unpacked, manifest, .. } = &built;
    let files = describe::count(manifest.files.len(), "file");
    let good = style::paint(style::GOOD, "✓");
    context.ui.say(format_args!(
        "{good} {}: {files}, {}, packed {}",
        path.display(),
        bytes(*unpacked),
        bytes(*packed)
    ));
    context.ui.say(format_args!("  sha256 {}", built.digest));
    if let Some(signature) = signature {
        context.ui.say(format_args!("  signed: {}", signature.display()));
    } else if packages::signature_path(path).exists() {
        context.ui.warn(format_args!("the signature beside {} is of what was there before", path.display()));
    }
    left_out(context, &contents);
    next_steps(&context.ui, &[(format!("harness deploy {}", path.display()), "install it here")]);
    Ok(Exit::OK)
}

fn left_out(context: &Context, contents: &Contents) {
    if !contents.left_out.is_empty() {
        context.ui.say(format_args!("  left out: {}", contents.left_out.join(", ")));
    }
}

fn planned(context: &Context, contents: &Contents, manifest: &Manifest) -> Result<Exit, CommandError> {
    contents.check(manifest).map_err(PackageError::from)?;
    if !context.ui.is_table() {
        let files: Vec<_> =
            contents.files().map(|(path, size)| serde_json::json!({ "path": path, "size": size })).collect();
        context.ui.document(&serde_json::json!({ "schema": 1, "files": files }))?;
        return Ok(Exit::OK);
    }
    let lines = contents.files().map(|(path, size)| format!("{:>10}  {path}", bytes(size)));
    context.ui.out(lines.collect::<Vec<_>>().join("\n"))?;
    left_out(context, contents);
    Ok(Exit::OK)
}

/// The manifest of a folder; `None` when what is wrong with it was told.
fn manifest_of(context: &Context, folder: &Path) -> Result<Option<Manifest>, CommandError> {
    let path = folder.join(manifest::FILE);
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(manifest::MAX_BYTES).read_to_string(&mut text));
    read.map_err(|source| PackageError::File { path: path.clone(), source })?;
    let read = read_manifest(&path.display().to_string(), &text);
    if read.manifest.is_none() {
        if context.ui.is_table() {
            crate::ui::complain(render(&read.diagnostics, &read.sources, true).trim_end());
        } else {
            let text = serde_json::to_string_pretty(&to_json(&read.diagnostics, &read.sources));
            crate::ui::complain(text.unwrap_or_default());
        }
    }
    Ok(read.manifest)
}

fn secret_key(path: &Path) -> Result<SecretKey, PackageError> {
    let text = packages::small(path)?;
    SecretKey::parse(&text).map_err(|source| PackageError::Key { path: path.into(), source })
}

/// Writes the signature of a package beside it.
fn sign(built: &Built, key: &SecretKey) -> Result<PathBuf, PackageError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PackageError::File { path, source }
    };
    let mut file = File::open(&built.path).map_err(failed(&built.path))?;
    let comment = format!("{} sha256:{}", built.manifest.stem(), built.digest);
    let text = key.sign(&mut file, &comment).map_err(|source| match source {
        SignError::Read(source) => PackageError::File { path: built.path.clone(), source },
        source => PackageError::Signature { path: built.path.clone(), source },
    })?;
    let path = packages::signature_path(&built.path);
    fs::write(&path, text).map_err(failed(&path))?;
    Ok(path)
}

/// Opens and verifies a package, with its progress.
fn checked(context: &Context, file: &Path, key: Option<&str>) -> Result<(Package, Opened), CommandError> {
    let key = key.map(packages::public_key).transpose()?;
    let mut opened = Opened::new(file, key.as_ref())?;
    let total = opened.peek()?.files.iter().map(|file| file.size).sum();
    let mut meter = Meter::new(&context.ui, "checking");
    let package = opened.verify(&mut |done| {
        meter.at(done, total);
        true
    })?;
    Ok((package, opened))
}

fn document<'a>(file: &'a Path, package: &'a Package, signature: Option<&'a Path>) -> PackageDocument<'a> {
    PackageDocument {
        schema: 1,
        file,
        sha256: package.digest.to_string(),
        size: package.packed,
        unpacked: package.unpacked,
        signature,
        manifest: &package.manifest,
    }
}

fn inspect(context: &Context, file: &Path) -> Result<Exit, CommandError> {
    let (package, _) = checked(context, file, None)?;
    let signature = Some(packages::signature_path(file)).filter(|path| path.exists());
    if !context.ui.is_table() {
        context.ui.document(&document(file, &package, signature.as_deref()))?;
        return Ok(Exit::OK);
    }
    let manifest = &package.manifest;
    let mut lines = vec![format!("{} {}", manifest.name, manifest.version)];
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{name:<14}{value}"));
        }
    };
    add("description", manifest.description.clone().unwrap_or_default());
    add("sha256", package.digest.to_string());
    add("size", format!("{}, unpacked {}", bytes(package.packed), bytes(package.unpacked)));
    add("signature", signature.map(|path| format!("{}, not looked at", path.display())).unwrap_or_default());
    add(
        "command",
        match manifest.service.command.is_empty() {
            true => manifest::START.to_owned(),
            false => manifest.service.command.join(" "),
        },
    );
    let ports = manifest.service.ports.iter().map(|port| match &port.name {
        Some(name) => format!("{name}:{}", port.port),
        None => port.port.to_string(),
    });
    add("ports", ports.collect::<Vec<_>>().join(", "));
    let needs = manifest.dependencies.iter().map(|(name, wanted)| format!("{name} {wanted}"));
    add("dependencies", needs.collect::<Vec<_>>().join(", "));
    add("requires", manifest.requires.commands.join(", "));
    lines.extend(manifest.files.iter().map(|file| format!("{:>12}  {}", bytes(file.size), file.path)));
    lines
        .extend(manifest.links.iter().map(|link| format!("{:>12}  {} → {}", "link", link.path, link.target)));
    context.ui.out(lines.join("\n"))?;
    Ok(Exit::OK)
}

fn verify(context: &Context, file: &Path, key: Option<&str>) -> Result<Exit, CommandError> {
    let (package, opened) = checked(context, file, key)?;
    if !context.ui.is_table() {
        let signature = packages::signature_path(file);
        context.ui.document(&document(file, &package, key.map(|_| signature.as_path())))?;
        return Ok(Exit::OK);
    }
    let files = describe::count(package.manifest.files.len(), "file");
    let good = style::paint(style::GOOD, "✓");
    context.ui.say(format_args!(
        "{good} {} is what its manifest says: {files}, {}",
        package.manifest.stem(),
        bytes(package.unpacked)
    ));
    match opened.signed {
        Some(comment) => context.ui.say(format_args!("{good} signed: {comment}")),
        None => context.ui.say("  its signature was not looked at: `--key KEY` does"),
    }
    Ok(Exit::OK)
}

fn keygen(context: &Context, file: &Path) -> Result<Exit, CommandError> {
    let mut public = file.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    for path in [file, &public] {
        if fs::symlink_metadata(path).is_ok() {
            return Err(CommandError::usage(format!("{} exists already", path.display()))
                .hint("name another file: a key that was overwritten is lost"));
        }
    }
    let random = |error: rustix::io::Errno| CommandError::io("there is no randomness", &error.into());
    let (mut seed, mut id) = ([0; 32], [0; 8]);
    for buffer in [&mut seed[..], &mut id[..]] {
        // So few bytes are never given in part.
        rustix::rand::getrandom(buffer, GetRandomFlags::empty()).map_err(random)?;
    }
    let key = SecretKey::new(&seed, id);
    create(file, &key.to_text(), 0o600)?;
    create(&public, &key.public().to_text(), 0o644)?;
    let id = key.public().id();
    if !context.ui.is_table() {
        context.ui.document(&serde_json::json!({
            "schema": 1, "id": id.to_string(), "secret": file, "public": public,
        }))?;
        return Ok(Exit::OK);
    }
    context.ui.say(format_args!(
        "The key {id}: {}, which only you may read, and {}.",
        file.display(),
        public.display()
    ));
    next_steps(
        &context.ui,
        &[
            (format!("harness package build FOLDER --sign {}", file.display()), "sign a package"),
            (format!("harness deploy FILE --key {}", public.display()), "accept only what it signed"),
        ],
    );
    Ok(Exit::OK)
}

/// Writes a file that must not be there yet.
fn create(path: &Path, text: &str, mode: u32) -> Result<(), PackageError> {
    let failed = |source: io::Error| PackageError::File { path: path.into(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

fn list(context: &Context, prefix: Option<&Path>) -> Result<Exit, CommandError> {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        root: &'a Path,
        packages: &'a [Status],
    }
    let depot = packages::depot(prefix)?;
    let found = depot.list(READ).map_err(PackageError::depot(&depot))?;
    if !context.ui.is_table() {
        context.ui.document(&Document { schema: 1, root: depot.root(), packages: &found })?;
        return Ok(Exit::OK);
    }
    if found.is_empty() {
        context.ui.say(format_args!("Nothing is installed in {}.", depot.root().display()));
        return Ok(Exit::OK);
    }
    let mut table = Table::new(&["NAME", "CURRENT", "BEFORE", "SINCE", "INSTALLED"]);
    let text = |version: Option<&semver::Version>| version.map(ToString::to_string).unwrap_or_default();
    for status in &found {
        let versions: Vec<String> = status.versions.iter().map(ToString::to_string).collect();
        let since = status.history.records.last().map(|record| record.at.strftime("%F %T").to_string());
        table.row(vec![
            status.name.clone(),
            text(status.current.as_ref()),
            text(status.previous.as_ref()),
            since.unwrap_or_default(),
            versions.join(", "),
        ]);
    }
    context.ui.out(table.lines(context.ui.stdout_width()).join("\n"))?;
    Ok(Exit::OK)
}
