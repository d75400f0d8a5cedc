//! Every key that may be written, once: the reader looks here for unknown ones, the JSON Schema is made from it.

/// What a value may look like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// Any text, number or truth value.
    Text,
    /// A whole number, at least the given one.
    Integer(i64),
    /// A number.
    Number,
    /// `true` or `false`.
    Bool,
    /// `30`, `500ms`, `1m30s`.
    Duration,
    /// `1048576`, `512MiB`.
    Size,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A command: words in a text, or a list.
    Words,
    /// A list of these.
    List(&'static Shape),
    /// Any names, each with one of these.
    MapOf(&'static Shape),
    /// These keys.
    Keys(&'static Table),
    /// One of several.
    Any(&'static [Shape]),
    /// Nothing (`name:` without a value).
    Null,
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) doc: &'static str,
}

/// The keys of one kind of map.
#[derive(Debug)]
pub(crate) struct Table {
    /// What has these keys, for messages: `a service`.
    pub(crate) what: &'static str,
    pub(crate) keys: &'static [Key],
    pub(crate) required: &'static [&'static str],
}

impl Table {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name == name)
    }
}

pub(crate) const fn key(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, doc }
}

use Shape::{Any, Bool, Duration, Integer, Keys, List, MapOf, Null, Number, OneOf, Size, Text, Words};

const TEXTS: Shape = List(&Text);
const TEXT_OR_TEXTS: Shape = Any(&[Text, TEXTS]);
const LABELS: Shape = Any(&[MapOf(&Text), TEXTS]);
const ENV: Shape = Any(&[MapOf(&Any(&[Text, Null])), TEXTS]);
const ENV_FILES: Shape = Any(&[Text, List(&Any(&[Text, Keys(&ENV_FILE)]))]);

pub(crate) const TYPES: [&str; 8] =
    ["process", "docker", "compose", "systemd", "portable", "package", "remote", "attach"];
const CONDITIONS: [&str; 4] = ["started", "healthy", "completed", "none"];
pub(crate) const RESTARTS: [&str; 4] = ["no", "always", "on-failure", "unless-stopped"];

pub(crate) static ROOT: Table = Table {
    what: "services.yaml",
    required: &["version"],
    keys: &[
        key("version", Text, "Version of this format: \"1.0\"."),
        key("name", Text, "Name of the project; the file's folder by default."),
        key("description", Text, "Free text."),
        key("env_file", ENV_FILES, "Files of NAME=value lines whose values ${NAME} can use."),
        key("settings", Keys(&SETTINGS), "Defaults for every service."),
        key("networks", MapOf(&Any(&[Keys(&NETWORK), Null])), "Networks; `local` always exists."),
        key("nodes", MapOf(&Keys(&NODE)), "Machines other than this one."),
        key("zone", Any(&[Text, Keys(&ZONE)]), "A DNS zone with the services' names: shop.test."),
        key("secrets", MapOf(&Keys(&SECRET)), "Where ${secrets.NAME} takes its value from."),
        key("templates", MapOf(&Keys(&TEMPLATE)), "Services to build on with `extends`."),
        key("tasks", MapOf(&Keys(&TASK)), "Run to completion once per start, in the same graph."),
        key("services", MapOf(&Keys(&SERVICE)), "What runs."),
    ],
};

pub(crate) static ENV_FILE: Table = Table {
    what: "an env_file",
    required: &["path"],
    keys: &[
        key("path", Text, "The file."),
        key("required", Bool, "Whether its absence is an error; true by default."),
    ],
};

pub(crate) static SETTINGS: Table = Table {
    what: "settings",
    required: &[],
    keys: &[
        key("log_level", OneOf(&["trace", "debug", "info", "warn", "error"]), "How much the daemon says."),
        key("startup_timeout", Duration, "Time a service has to become ready; 5m."),
        key("shutdown_timeout", Duration, "Time between the stop signal and SIGKILL; 30s."),
        key("health_check_interval", Duration, "Time between health checks; 30s."),
    ],
};

pub(crate) static ZONE: Table = Table {
    what: "the zone",
    required: &["name"],
    keys: &[
        key("name", Text, "Its name: services are SERVICE.NAME in it."),
        key("listen", Text, "Where it is asked on every node: a loopback address with a port."),
    ],
};

pub(crate) static NETWORK: Table = Table {
    what: "a network",
    required: &[],
    keys: &[
        key("type", OneOf(&["local", "lan", "wireguard", "auto"]), "How its members reach each other."),
        key("description", Text, "Free text."),
        key("subnet", Text, "IPv4 subnet such as 10.42.0.0/16."),
        key("interface", Text, "Name of the network interface."),
        key("nodes", List(&Keys(&NETWORK_NODE)), "Machines on it."),
    ],
};

macro_rules! node_keys {
    ($($more:expr),*) => {
        &[
            key("host", Text, "Address or name that ssh understands."),
            key("port", Integer(1), "TCP port of its sshd."),
            key("user", Text, "User to log in as."),
            key("identity_file", Text, "Private key file."),
            key("ssh_user", Text, "The same as user."),
            key("ssh_key", Text, "The same as identity_file."),
            key("sudo", Bool, "Whether commands there may be run as root through sudo."),
            key("jump", Text, "Node or host to go through."),
            key("networks", TEXT_OR_TEXTS, "Networks that it is a member of."),
            key("region", Text, "Region it stands in."),
            key("labels", LABELS, "Labels for placement."),
            $($more),*
        ]
    };
}

pub(crate) static NODE: Table = Table { what: "a node", required: &["host"], keys: node_keys!() };
pub(crate) static NETWORK_NODE: Table = Table {
    what: "a node of a network",
    required: &["host"],
    keys: node_keys!(key("name", Text, "Name of the node; its host by default.")),
};

pub(crate) static SECRET: Table = Table {
    what: "a secret",
    required: &[],
    keys: &[
        key("file", Text, "A file that holds the value."),
        key("env", Text, "A variable that holds the value."),
        key("command", Words, "A command that prints the value."),
    ],
};

pub(crate) static PORT: Table = Table {
    what: "a port",
    required: &["port"],
    keys: &[
        key("name", Text, "Name for ${service.port.NAME}."),
        key(
            "port",
            Any(&[OneOf(&["auto"]), Integer(1)]),
            "The port that others use, or `auto` for a free one.",
        ),
        key("target", Integer(1), "The port inside a container, where it differs."),
        key("protocol", OneOf(&["tcp", "udp"]), "tcp by default."),
        key("address", Text, "Address to listen on or publish at."),
    ],
};

pub(crate) static DEPENDENCY: Table = Table {
    what: "a dependency",
    required: &[],
    keys: &[key(
        "condition",
        OneOf(&CONDITIONS),
        "What must be true of it first: `healthy` where it has a health check, `completed` for a task, else `started`.",
    )],
};

macro_rules! probe_keys {
    ($($more:expr),*) => {
        &[
            key("command", Words, "A command, run where the service runs; exit code 0 is healthy."),
            key("args", Words, "Arguments of the command."),
            key("expected_exit", Integer(0), "The exit code of a healthy service; 0."),
            key("expected_output", Text, "Text that the command must print."),
            key("http", Any(&[Text, Keys(&HTTP)]), "A URL that must answer."),
            key("tcp", Any(&[Integer(1), Text, Keys(&TCP)]), "A port that must accept connections."),
            key("test", TEXT_OR_TEXTS, "Compose's form: a shell command, or [CMD, …], [CMD-SHELL, …], [NONE]."),
            key("all", List(&Keys(&PROBE)), "Several that must all be well."),
            $($more),*
        ]
    };
}

pub(crate) static PROBE: Table = Table { what: "a probe", required: &[], keys: probe_keys!() };
pub(crate) static HEALTH: Table = Table {
    what: "a health check",
    required: &[],
    keys: probe_keys!(
        key("interval", Duration, "Time between checks; 30s."),
        key("timeout", Duration, "Time a check has to answer; 5s."),
        key("retries", Integer(1), "Failures in a row that make it unhealthy; 3."),
        key("start_period", Duration, "Time after the start in which failures don't count; 0."),
        key(
            "start_interval",
            Duration,
            "First delay between checks while starting, doubled each time; 20ms."
        ),
        key("success_threshold", Integer(1), "Successes in a row that make it healthy; 1.")
    ),
};
pub(crate) const PROBE_KINDS: [&str; 5] = ["command", "http", "tcp", "test", "all"];

pub(crate) static HTTP: Table = Table {
    what: "an http check",
    required: &["url"],
    keys: &[
        key("url", Text, "http://HOST[:PORT]/PATH"),
        key("method", Text, "GET by default."),
        key("headers", LABELS, "Headers to send."),
        key(
            "expected_status",
            Any(&[Integer(100), List(&Integer(100))]),
            "Statuses of a healthy service; 200 to 399.",
        ),
        key("expected_body", Text, "Text that the body must contain."),
        key("timeout", Duration, "The same as the check's timeout."),
    ],
};

pub(crate) static TCP: Table = Table {
    what: "a tcp check",
    required: &["port"],
    keys: &[
        key("host", Text, "Host; the instance's own address by default."),
        key("port", Any(&[Integer(1), Text]), "The port."),
        key("timeout", Duration, "The same as the check's timeout."),
    ],
};

pub(crate) static RESTART: Table = Table {
    what: "restart",
    required: &[],
    keys: &[
        key("policy", Any(&[OneOf(&RESTARTS), Bool]), "When it is started again; on-failure."),
        key(
            "max_retries",
            Integer(0),
            "Quick deaths in a row after which it is given up; no limit by default.",
        ),
        key("backoff", Keys(&BACKOFF), "How long to wait after a quick death."),
        key("reset_after", Duration, "Running this long is stable, and the count begins anew; 10s."),
    ],
};

pub(crate) static BACKOFF: Table = Table {
    what: "backoff",
    required: &[],
    keys: &[
        key("initial", Duration, "The first delay; 100ms."),
        key("max", Duration, "The longest delay; 30s."),
    ],
};

pub(crate) static RESOURCES: Table = Table {
    what: "resources",
    required: &[],
    keys: &[
        key("memory", Size, "Memory, such as 512MiB."),
        key("cpus", Number, "Processors, also in parts: 0.5."),
        key("nice", Integer(-20), "Niceness, -20 to 19."),
        key("open_files", Integer(1), "Open files."),
    ],
};

pub(crate) static LOGS: Table = Table {
    what: "logs",
    required: &[],
    keys: &[
        key("max_size", Size, "Size after which a log file is rotated; 10MiB."),
        key("keep_files", Integer(0), "Rotated files kept for each run; 5."),
        key("keep_runs", Integer(1), "Runs kept for each instance; 5."),
    ],
};

pub(crate) static FILE_COPY: Table = Table {
    what: "a file",
    required: &["source", "destination"],
    keys: &[key("source", Text, "Here."), key("destination", Text, "There.")],
};

pub(crate) static DEPLOYMENT: Table = Table {
    what: "a deployment",
    required: &[],
    keys: &[
        key("strategy", OneOf(&["recreate", "rolling", "blue-green", "canary"]), "The way; recreate."),
        key("max_parallel", Integer(1), "Instances replaced at the same time; 1."),
        key("rollback_on_failure", Bool, "Whether a failed deployment is taken back; true."),
        key("wait", Duration, "Time between two steps."),
        key("canary_percent", Integer(1), "Share that the canary gets, in percent."),
        key("canary_duration", Duration, "Time the canary is watched."),
        key("health_timeout", Duration, "Time a new instance has to become healthy."),
        key("keep_old", Duration, "Time the old instances stay after a switch."),
    ],
};
pub(crate) const DEPLOYMENT_OPTIONS: [&str; 5] =
    ["wait", "canary_percent", "canary_duration", "health_timeout", "keep_old"];

pub(crate) static SCALING: Table = Table {
    what: "scaling",
    required: &["min", "max", "metric", "target"],
    keys: &[
        key("min", Integer(0), "At least so many."),
        key("max", Integer(1), "At most so many."),
        key("metric", Text, "What is measured: cpu, memory, connections, or a metric of your own."),
        key("target", Any(&[Number, Text]), "The value to hold."),
        key("scale_up_cooldown", Duration, "Time between two steps up."),
        key("scale_down_cooldown", Duration, "Time between two steps down."),
        key("window", Duration, "Time over which the metric is averaged."),
        key("url", Text, "Where the metric is read, for metrics of your own."),
    ],
};
pub(crate) const SCALING_OPTIONS: [&str; 4] = ["scale_up_cooldown", "scale_down_cooldown", "window", "url"];

pub(crate) static EXTERNAL: Table = Table {
    what: "external",
    required: &["host", "port"],
    keys: &[key("host", Text, "Host name or address."), key("port", Integer(1), "TCP port.")],
};

pub(crate) static MANAGED: Table = Table {
    what: "managed",
    required: &[],
    keys: &[
        key("start", Words, "Command that starts it."),
        key("stop", Words, "Command that stops it."),
        key("status", Words, "Command that exits with 0 while it runs."),
        key("logs", Words, "Command that prints its log."),
    ],
};

macro_rules! service_keys {
    () => {
        &[
            key("type", OneOf(&TYPES), "What it is."),
            key("description", Text, "Free text."),
            key("extends", Text, "Template to build on; the service's own keys win."),
            key("network", Text, "Network that it is on."),
            key("host", Text, "Node that it runs on; this machine by default."),
            key("replicas", Integer(0), "How many instances; 1."),
            key("env", ENV, "Environment variables; a name without a value is passed through."),
            key("env_file", ENV_FILES, "Files of NAME=value lines for its environment."),
            key(
                "dependencies",
                Any(&[Text, TEXTS, MapOf(&Any(&[Keys(&DEPENDENCY), OneOf(&CONDITIONS), Null]))]),
                "What it needs.",
            ),
            key("health_check", Any(&[Keys(&HEALTH), OneOf(&["none"])]), "How it is asked whether it is well."),
            key("ports", List(&Any(&[Integer(1), Text, Keys(&PORT)])), "Ports that it listens on; the first is *the* port."),
            key("startup_timeout", Duration, "Time it has to become ready."),
            key("shutdown_timeout", Duration, "Time between the stop signal and SIGKILL."),
            key("stop_signal", Any(&[Text, Integer(1)]), "Signal that asks it to stop; SIGTERM."),
            key("restart", Any(&[OneOf(&RESTARTS), Bool, Keys(&RESTART)]), "When it is started again; on-failure."),
            key("user", Text, "User to run as."),
            key("group", Text, "Group to run as."),
            key("working_dir", Text, "Folder to run in; the file's folder by default."),
            key("resources", Keys(&RESOURCES), "Limits."),
            key("labels", LABELS, "Labels for people and filters."),
            key("profiles", TEXT_OR_TEXTS, "Active only with one of these profiles."),
            key("on_dependency_failure", OneOf(&["restart", "hold", "ignore"]), "What happens to it when a dependency fails; ignore."),
            key("on_dependency_change", OneOf(&["ignore", "restart"]), "What happens to it when a value that it was given changes; ignore."),
            key("on_unhealthy", OneOf(&["ignore", "restart"]), "What happens to it when it is unhealthy; ignore."),
            key("on_node_loss", OneOf(&["keep", "reschedule"]), "What happens to it when its node is lost; keep."),
            key("logs", Keys(&LOGS), "What is kept of its output."),
            key("init", Bool, "Whether a container gets an init process."),
            key("names", OneOf(&["env", "hosts", "ambassador"]), "How it sees the names of others; process, package: hosts; docker, compose: ambassador."),
            key("placement", LABELS, "Labels that a node must have to run it."),
            key("files", List(&Any(&[Text, Keys(&FILE_COPY)])), "Files that a node needs from the project."),
            key("deployment", Keys(&DEPLOYMENT), "How a new version replaces an old one."),
            key("scaling", Keys(&SCALING), "How many replicas there should be."),
            // What only some types have.
            key("binary", Text, "process, remote: the program."),
            key("args", Words, "process, remote: its arguments."),
            key("command", Words, "process, remote: program and arguments, split into words, not run by a shell; docker: replaces the image's command."),
            key("image", Text, "docker: image; portable: image or folder."),
            key("entrypoint", Words, "docker: replaces the image's entrypoint."),
            key("volumes", TEXTS, "docker: SOURCE:DESTINATION[:ro]."),
            key("pull", OneOf(&["always", "missing", "never"]), "docker: when the image is pulled."),
            key("file", Text, "compose: the Compose file."),
            key("service", Text, "compose: one service of it."),
            key("unit", Text, "systemd, portable, attach: the unit."),
            key("profile", Text, "portable: security profile."),
            key("package", Text, "package: the package file."),
            key("version", Text, "package: version to run."),
            key("install_path", Text, "package: folder to install to."),
            key("pre_install", Words, "package: command run before the switch to this version."),
            key("post_install", Words, "package: command run after it."),
            key("pid_file", Text, "attach: a file that holds a process id."),
            key("process_name", Text, "attach: the name of a process."),
            key("container", Text, "attach: a container."),
            key("managed", Keys(&MANAGED), "attach: commands of your own."),
            key("external", Keys(&EXTERNAL), "attach: something elsewhere that has an address."),
        ]
    };
}

pub(crate) static SERVICE: Table = Table { what: "a service", required: &["type"], keys: service_keys!() };
pub(crate) static TASK: Table = Table { what: "a task", required: &[], keys: service_keys!() };
pub(crate) static TEMPLATE: Table = Table { what: "a template", required: &[], keys: service_keys!() };

/// The types that have a key which not all of them have; empty for a key of every type.
pub(crate) fn types_with(key: &str) -> &'static [&'static str] {
    match key {
        "binary" | "args" => &["process", "remote"],
        "command" => &["process", "remote", "docker"],
        "image" => &["docker", "portable"],
        "entrypoint" | "volumes" | "pull" | "init" => &["docker"],
        "file" | "service" => &["compose"],
        "unit" => &["systemd", "portable", "attach"],
        "profile" => &["portable"],
        "package" | "version" | "install_path" | "pre_install" | "post_install" => &["package"],
        "pid_file" | "process_name" | "container" | "managed" | "external" => &["attach"],
        _ => &[],
    }
}
