//! What docker's standard error means.
//!
//! The texts are those of clients and engines from 20.10 to 28, and of podman 4 and 5. They change from version to
//! version: all that were seen are in `tests/samples/docker/errors.txt`.

use super::{DockerError, PullFailure};
use crate::target::text::{after, between, contains, shorten, word_after, word_before};

/// The error that the text means, if it is one that is known.
pub(super) fn known(text: &str) -> Option<DockerError> {
    engine(text)
        .or_else(|| missing(text))
        .or_else(|| taken(text))
        .or_else(|| in_container(text))
        .or_else(|| pull(text))
        .or_else(|| refused(text))
}

/// Troubles between the client and its engine.
fn engine(text: &str) -> Option<DockerError> {
    if text.contains("permission denied while trying to connect") {
        let socket = between(text, "socket at ", ": ").or_else(|| between(text, "API at ", ": "));
        return Some(DockerError::PermissionDenied { socket: socket.unwrap_or("its socket").to_owned() });
    }
    if let Some(context) = between(text, "unable to resolve docker endpoint: context \"", "\"")
        .or_else(|| text.contains("context not found").then(|| between(text, "context \"", "\"")).flatten())
    {
        return Some(DockerError::NoSuchContext { context: context.to_owned() });
    }
    if contains(text, &["is too new. Maximum supported", "is too old. Minimum supported"]) {
        return Some(DockerError::VersionMismatch { why: message(text) });
    }
    let at = between(text, "Cannot connect to the Docker daemon at ", ". Is the docker")
        .or_else(|| between(text, "failed to connect to the docker API at ", ";"));
    if at.is_some() || contains(text, &["error during connect:", "unable to connect to Podman"]) {
        let endpoint = at.unwrap_or("its address").to_owned();
        let why = if at.is_some() && text.contains("Is the docker daemon running") {
            "nobody answers there".to_owned()
        } else {
            message(text)
        };
        return Some(DockerError::NotReachable { endpoint, why });
    }
    // The engine ended in the middle of an answer.
    if matches!(text, "EOF" | "unexpected EOF") || text.ends_with("waiting for container: unexpected EOF") {
        let endpoint = "its address".to_owned();
        return Some(DockerError::NotReachable {
            endpoint,
            why: "it ended in the middle of its answer".to_owned(),
        });
    }
    None
}

/// Things that aren't there.
fn missing(text: &str) -> Option<DockerError> {
    let name = |after: &str| word_after(text, after).map(str::to_owned);
    if let Some(name) = name("No such container: ")
        .or_else(|| name("no container with name or ID \""))
        .or_else(|| name("no container with ID or name \""))
        .or_else(|| name("no such container "))
        .or_else(|| name("No such object: "))
        .or_else(|| name("no such object: \""))
    {
        return Some(DockerError::NoSuchContainer { name });
    }
    if let Some(image) = name("No such image: ").or_else(|| name("no such image: ")) {
        return Some(DockerError::NoSuchImage { image });
    }
    // podman: `Error: nosuch:1: image not known`
    if let Some(image) = text.strip_suffix(": image not known") {
        let image = image.rsplit(' ').next().unwrap_or(image);
        return Some(DockerError::NoSuchImage { image: image.to_owned() });
    }
    if let Some(network) = word_before(text, ": network not found")
        .or_else(|| between(text, "network ", " not found"))
        .or_else(|| after(text, "No such network: "))
    {
        return Some(DockerError::NoSuchNetwork { network: network.to_owned() });
    }
    name("No such volume: ")
        .or_else(|| name("no such volume: "))
        .map(|volume| DockerError::NoSuchVolume { volume })
}

/// Things that somebody else has.
fn taken(text: &str) -> Option<DockerError> {
    if let Some(name) = between(text, "The container name \"", "\" is already in use") {
        let by = between(text, "by container \"", "\"").or_else(|| between(text, "by container ", "."));
        let (name, by) = (name.trim_start_matches('/').to_owned(), by.unwrap_or("another").to_owned());
        return Some(DockerError::NameInUse { name, by });
    }
    // podman: the container name "x" is already in use by 1234.
    if let Some(name) = between(text, "the container name \"", "\" is already in use") {
        let by = between(text, "in use by ", ".").unwrap_or("another").to_owned();
        return Some(DockerError::NameInUse { name: name.to_owned(), by });
    }
    if contains(text, &["port is already allocated", "address already in use"]) {
        let address = between(text, "Bind for ", " failed")
            .or_else(|| between(text, "listen tcp4 ", ": bind"))
            .or_else(|| between(text, "listen tcp ", ": bind"))
            .or_else(|| between(text, "listen udp ", ": bind"))
            .or_else(|| between(text, "failed to bind host port for ", ":"))
            .or_else(|| between(text, "failed to bind host port ", ":172."))
            .unwrap_or("a port");
        return Some(DockerError::PortInUse { address: address.to_owned() });
    }
    if let Some(network) = between(text, "network with name ", " already exists")
        .or_else(|| between(text, "network name ", " already used"))
    {
        return Some(DockerError::NetworkExists { network: network.to_owned() });
    }
    if contains(text, &["Pool overlaps with other one", "is already used on the host or by another config"]) {
        return Some(DockerError::AddressOverlap);
    }
    if contains(text, &["has active endpoints", "has associated containers with it"]) {
        let network = between(text, "removing network: network ", " ").or_else(|| between(text, "\"", "\""));
        return Some(DockerError::NetworkInUse { network: network.unwrap_or_default().to_owned() });
    }
    None
}

/// Troubles of a container and of what is run in it.
fn in_container(text: &str) -> Option<DockerError> {
    let owned = |text: &str| text.trim_matches(['"', '\'']).to_owned();
    if let Some(name) =
        between(text, "ontainer ", " is paused").or_else(|| between(text, "ontainer ", " is paused,"))
    {
        return Some(DockerError::Paused { name: owned(name) });
    }
    if text.contains("cannot start a paused container") {
        let name = word_after(text, "failed to start containers: ").unwrap_or_default();
        return Some(DockerError::Paused { name: owned(name) });
    }
    if let Some(name) = between(text, "ontainer ", " is not running") {
        return Some(DockerError::NotRunning { name: owned(last_word(name)) });
    }
    // podman doesn't always say which
    if contains(
        text,
        &["can only create exec sessions on running containers", "can only kill running containers"],
    ) {
        let name = between(text, "running containers. ", " is in state");
        return Some(DockerError::NotRunning { name: owned(name.unwrap_or_default()) });
    }
    if let Some(name) = between(text, "cannot remove a running container ", ". ")
        .or_else(|| between(text, "cannot remove container \"/", "\": container is running"))
        .or_else(|| between(text, "cannot remove container ", " as it is running"))
    {
        return Some(DockerError::Running { name: owned(name) });
    }
    if let Some(name) = between(text, "removal of container ", " is already in progress") {
        return Some(DockerError::BeingRemoved { name: owned(name) });
    }
    if let Some(user) =
        between(text, "unable to find user ", ":").or_else(|| between(text, "unable to find group ", ":"))
    {
        return Some(DockerError::NoSuchUser { user: owned(user) });
    }
    if text.contains("no space left on device") {
        return Some(DockerError::NoSpace { why: message(text) });
    }
    if let Some(folder) = between(text, "chdir to cwd (\"", "\")") {
        return Some(DockerError::NoSuchFolder { folder: owned(folder) });
    }
    let program = between(text, "exec: \"", "\":").or_else(|| between(text, "exec ", ": "));
    let not_found = ["executable file not found", "stat ", "no such file or directory"];
    if let Some(program) = program {
        if text.contains("permission denied")
            || text.contains("exec format error")
            || text.contains("is a directory")
        {
            return Some(DockerError::ProgramNotExecutable { program: owned(program) });
        }
        if contains(text, &not_found) {
            return Some(DockerError::ProgramNotFound { program: owned(program) });
        }
    }
    None
}

/// Registries.
fn pull(text: &str) -> Option<DockerError> {
    let is_registry = contains(
        text,
        &["/v2/", "pull access denied", "manifest", "toomanyrequests", "registry", "registries"],
    );
    let is_pull =
        is_registry || contains(text, &["docker.io/", "initializing source", "failed to resolve reference"]);
    if !is_pull || text.contains("invalid reference format") {
        return None;
    }
    // podman, which has no default registry
    if let Some(image) = between(text, "short-name \"", "\" did not resolve") {
        let (image, reason) = (image.to_owned(), PullFailure::NotFound);
        return Some(DockerError::PullFailed { image, reason, why: message(text) });
    }
    let reason = pull_failure(text).or_else(|| is_registry.then_some(PullFailure::Other))?;
    let image = between(text, "pull access denied for ", ",")
        .or_else(|| between(text, "Unable to find image '", "'"))
        .or_else(|| between(text, "manifest for ", " not found"))
        .or_else(|| between(text, "failed to resolve reference \"", "\""))
        .or_else(|| between(text, "initializing source docker://", ":"))
        .unwrap_or("the image");
    Some(DockerError::PullFailed { image: image.to_owned(), reason, why: message(text) })
}

/// Why it can't be fetched, by the registry's words.
fn pull_failure(text: &str) -> Option<PullFailure> {
    let table: [(PullFailure, &[&str]); 6] = [
        (PullFailure::RateLimited, &["toomanyrequests", "Too Many Requests", "rate limit"]),
        (
            PullFailure::Certificate,
            &["x509:", "certificate", "server gave HTTP response to HTTPS client", "tls: "],
        ),
        (PullFailure::Platform, &["no matching manifest", "no image found in manifest list"]),
        (
            PullFailure::Unreachable,
            &[
                "no such host",
                "connection refused",
                "i/o timeout",
                "network is unreachable",
                "no route to host",
                "Client.Timeout",
                "TLS handshake timeout",
                "server misbehaving",
                "connection reset",
                "Temporary failure in name resolution",
                "context deadline exceeded",
                "unexpected EOF",
                "proxyconnect",
            ],
        ),
        (
            PullFailure::NotFound,
            &[
                "pull access denied",
                "manifest unknown",
                "name unknown",
                "repository does not exist",
                ": not found",
                "requested access to the resource is denied",
                "name unknown",
            ],
        ),
        (
            PullFailure::Unauthorized,
            &["unauthorized", "no basic auth credentials", "authentication required", "denied:"],
        ),
    ];
    table.into_iter().find(|(_, texts)| contains(text, texts)).map(|(reason, _)| reason)
}

/// Values that docker doesn't take.
fn refused(text: &str) -> Option<DockerError> {
    if contains(text, &["invalid reference format", "repository name must be lowercase"]) {
        return Some(DockerError::InvalidReference { why: message(text) });
    }
    let mount = [
        "invalid mount config",
        "invalid volume specification",
        "invalid mode: ",
        "bind source path does not exist",
        "mount path must be absolute",
        "invalid container path",
        "Duplicate mount point",
        "includes invalid characters for a local volume name",
        "error while creating mount source path",
        "error mounting",
        "not a directory: unknown",
        "statfs ",
    ];
    if contains(text, &mount) {
        return Some(DockerError::BadMount { why: message(text) });
    }
    let option = [
        "unknown flag",
        "unknown shorthand flag",
        "is not a docker command",
        "unknown command",
        "invalid argument",
        "Invalid container name",
        "Minimum memory limit",
        "Range of CPUs",
        "Invalid signal",
        "the working directory '",
        "invalid hostPort",
        "Invalid hostPort",
        "invalid containerPort",
        "Invalid containerPort",
        "No command specified",
        "invalid IP address",
        "invalid env file",
        "conflicting options",
        "Invalid address",
        "invalid publish",
        "invalid ulimit",
    ];
    contains(text, &option).then(|| DockerError::BadOption { why: message(text) })
}

fn last_word(text: &str) -> &str {
    text.rsplit(' ').next().unwrap_or(text)
}

/// Lines that say who says it, how far it is, and where help is.
fn is_noise(line: &str) -> bool {
    let beginnings = [
        "time=\"",
        "Emulate Docker CLI",
        "Trying to pull ",
        "See '",
        "Run 'docker",
        "Usage:",
        "Unable to find image",
        "Error: failed to start containers",
    ];
    line.trim().is_empty() || beginnings.iter().any(|beginning| line.starts_with(beginning))
}

pub(super) fn without_noise(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !is_noise(line)).collect();
    if lines.is_empty() { text.to_owned() } else { lines.join("\n") }
}

/// The first sentence, without docker's decoration.
fn message(text: &str) -> String {
    let mut line = text.lines().find(|line| !is_noise(line)).unwrap_or(text).trim();
    for decoration in ["docker: ", "Error response from daemon: ", "Error: ", "error: "] {
        line = line.strip_prefix(decoration).unwrap_or(line);
    }
    shorten(line)
}
