//! The description of the daemon's API, `docs/openrpc.json`: made from the code here, handed out by `rpc.discover`.

use crate::api::{self, code, network, node, package, plane};
use crate::daemon::METHODS;
use crate::packages::{Deployed, RolledBack};
use service_registry::files;
use service_registry::openrpc::{Described, document, problems, registry};
use service_registry::wire::{self, Empty};

const FILE: &str = "../../docs/openrpc.json";

fn stack() -> Vec<Described> {
    let names = || vec!["web".to_owned()];
    let named = [code::UNKNOWN_NAME, code::NO_STACK];
    let durable = wire::code::NOT_DURABLE;
    let example = |kind: &str| {
        let lines = include_str!("../tests/samples/api-v1.jsonl").lines();
        let mut samples = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        samples.find(|sample| sample["type"] == kind).unwrap()["value"].take()
    };
    vec![
        Described::new::<api::StartParams, api::StartResult>(
            api::STACK_START,
            "Start services and what they need. Answered as soon as the wish is durable.",
        )
        .refuses(&[code::UNKNOWN_NAME, code::NOT_SUPPORTED, code::SECRET, code::PORTS, durable])
        .example(example("StartParams")),
        Described::new::<api::StopParams, api::StopResult>(
            api::STACK_STOP,
            "Stop services, dependents first. Answered as soon as the wish is durable.",
        )
        .refuses(&[code::HAS_DEPENDENTS, durable])
        .refuses(&named)
        .example(api::StopParams { names: names(), force: false, dependents: true, dry_run: false }),
        Described::new::<api::RestartParams, api::RestartResult>(
            api::STACK_RESTART,
            "Restart services. Answered as soon as the wish is durable.",
        )
        .refuses(&[code::NOT_SUPPORTED, code::SECRET, code::PORTS, durable])
        .refuses(&named)
        .example(example("RestartParams")),
        Described::new::<api::Names, api::StatusResult>(api::STACK_STATUS, "How services are.")
            .refuses(&named)
            .example(api::Names { names: names() }),
        Described::new::<api::HealthParams, api::StatusResult>(
            api::STACK_HEALTH,
            "How services are, with `run_now` after their checks ran.",
        )
        .refuses(&named)
        .example(api::HealthParams { names: names(), run_now: true }),
        Described::new::<api::ExecParams, api::ExecContext>(
            api::STACK_EXEC,
            "What a command needs to run where an instance does.",
        )
        .refuses(&[code::NOT_RUNNING])
        .refuses(&named)
        .example(api::ExecParams { name: "web".to_owned() }),
        Described::new::<Empty, api::DaemonInfo>(api::DAEMON_STATUS, "Who answers.").example(Empty {}),
        Described::new::<api::EndParams, api::EndResult>(
            api::DAEMON_STOP,
            "End the daemon; services go on. Needs no `hello`.",
        )
        .example(api::EndParams { if_idle: true }),
        Described::new::<api::ListenParams, api::ListenResult>(
            api::DAEMON_LISTEN,
            "Listen on TCP, behind TLS, or nowhere. The setting outlives the daemon.",
        )
        .refuses(&[code::LISTEN, durable])
        .example(api::ListenParams { listen: None }),
        Described::new::<api::NewTokenParams, api::NewTokenResult>(
            api::TOKEN_CREATE,
            "Make a token for TCP. It is shown this once.",
        )
        .refuses(&[wire::code::EXISTS, durable])
        .example(api::NewTokenParams { name: "ci".into(), scope: wire::Scope::Read, expires: None }),
        Described::new::<Empty, api::TokenList>(api::TOKEN_LIST, "The tokens, without what opens.")
            .example(Empty {}),
        Described::new::<api::TokenName, Empty>(
            api::TOKEN_REVOKE,
            "Revoke a token, and end the connections that it opened.",
        )
        .refuses(&[wire::code::NOT_FOUND, durable])
        .example(api::TokenName { name: "ci".into() }),
        Described::new::<Empty, node::ListResult>(node::LIST, "Other machines, as the daemon knows them.")
            .example(Empty {}),
        Described::new::<node::PingParams, node::Pong>(
            node::PING,
            "Say that you are there, and what time it is; to an agent also: what runs on a lease runs on.",
        )
        .example(node::PingParams::default()),
        Described::new::<node::DrainParams, node::DrainResult>(
            node::DRAIN,
            "Empty a node: what may run elsewhere goes there, and nothing new comes. Answered as soon as the wish is durable.",
        )
        .refuses(&[code::NOT_SUPPORTED, durable])
        .refuses(&named)
        .example(node::DrainParams { name: "eu-1".into(), off: false }),
        Described::new::<Empty, Empty>(
            node::RETRY,
            "Try to reach the nodes that are lost now, rather than when it is their turn. Doesn't wait for it.",
        )
        .example(Empty {}),
        Described::new::<node::ForgetParams, node::ForgetResult>(
            node::FORGET,
            "Forget a node that is lost: it isn't tried any more, gets nothing new, and what was there isn't wanted any more. What \
             runs there runs on.",
        )
        .refuses(&[code::NOT_LOST, durable])
        .example(node::ForgetParams { name: "eu-1".into() }),
        Described::new::<Empty, node::Owner>(node::OWNER, "As whom this daemon claims agents.").example(Empty {}),
        Described::new::<node::Owner, Empty>(node::CLAIM, "To an agent: be mine. The first of every connection.")
            .refuses(&[code::CLAIMED, durable])
            .example(example("Owner")),
        Described::new::<node::AssignParams, Empty>(
            node::ASSIGN,
            "To an agent: run this. Answered as soon as the wish is durable; the same again changes nothing.",
        )
        .refuses(&[code::CLAIMED, code::OUTDATED, code::PACKAGE, code::PORTS, code::SECRET, durable])
        .example(example("AssignParams")),
        Described::new::<node::WithdrawParams, Empty>(
            node::WITHDRAW,
            "To an agent: don't run this any more. Answered as soon as the wish is durable.",
        )
        .refuses(&[code::CLAIMED, code::OUTDATED, durable])
        .example(example("WithdrawParams")),
        Described::new::<Empty, network::ShowResult>(
            network::SHOW,
            "How services reach each other: virtual addresses, the way from node to node, and what data planes report.",
        )
        .example(Empty {}),
        Described::new::<Empty, network::Rotated>(
            network::ROTATE_KEYS,
            "Every node makes itself another key for its tunnels. Connections go on.",
        )
        .example(Empty {}),
        Described::new::<Empty, network::Down>(
            network::DOWN,
            "End all data planes, with the connections through them, until something is started again.",
        )
        .example(Empty {}),
        Described::new::<plane::UpParams, Empty>(
            plane::UP,
            "To an agent: have the node's data plane run. One that runs is left as it is.",
        )
        .refuses(&[code::PLANE])
        .example(plane::UpParams { node: "eu-1".into() }),
        Described::new::<files::PutParams, files::Opened>(
            files::PUT,
            "To an agent: bring these files to their places. What is missing there is sent on the stream that this opens; its end has `written`, `unchanged` and `removed`.",
        )
        .refuses(&[code::CLAIMED, code::FILES, wire::code::TOO_MANY_STREAMS])
        .example(example("PutParams")),
        Described::new::<package::ListParams, package::ListResult>(
            package::LIST,
            "The packages that are installed on the daemon's machine.",
        )
        .refuses(&[code::PACKAGE])
        .example(package::ListParams::default()),
        Described::new::<package::UploadParams, package::UploadOpened>(
            package::UPLOAD,
            "Send a package to the daemon's machine, on the stream that this opens, from the offset on that it tells. The end of the stream has `file`, `size` and `sha256`.",
        )
        .refuses(&[code::PACKAGE, wire::code::TOO_MANY_STREAMS])
        .example(example("UploadParams")),
        Described::new::<package::DeployParams, Deployed>(
            package::DEPLOY,
            "Install a package that is a file of the daemon's machine, and make it current.",
        )
        .refuses(&[code::CLAIMED, code::PACKAGE])
        .example(example("DeployParams")),
        Described::new::<package::InstallParams, Deployed>(
            package::INSTALL,
            "To an agent: install a package that came unpacked, by `files.put`, and make it current.",
        )
        .refuses(&[code::CLAIMED, code::PACKAGE])
        .example(example("InstallParams")),
        Described::new::<package::RollbackParams, RolledBack>(
            package::ROLLBACK,
            "Make an earlier version of a package current.",
        )
        .refuses(&[code::CLAIMED, code::PACKAGE])
        .example(example("RollbackParams")),
    ]
}

#[test]
fn the_document_is_what_the_code_says_and_what_is_served() {
    let infos = [wire::METHODS, METHODS];
    let mut methods = registry();
    methods.extend(stack());
    let made = document("harness", &infos, &methods, &[wire::code::ALL, code::ALL]);
    assert_eq!(problems(&made, &infos), [""; 0]);
    let text = format!("{made:#}\n");
    if std::env::var_os("UPDATE_OPENRPC").is_some() {
        std::fs::write(FILE, &text).unwrap();
    }
    assert!(text == std::fs::read_to_string(FILE).unwrap(), "run `cargo xtask openrpc`");
}

#[test]
fn no_code_means_two_things() {
    let all = wire::code::ALL.iter().chain(code::ALL);
    let mut names = std::collections::BTreeMap::new();
    for info in all {
        if let Some(other) = names.insert(info.code, info.name) {
            panic!("{} is {other} and {}", info.code, info.name);
        }
    }
}
