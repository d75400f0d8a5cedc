//! Several bare hosts for `bench/nodes`: `bare COUNT` boots them, prints the path of their ssh_config, and ends them when its
//! standard input ends. They are called `n0`, `n1` and so on.

use std::io::Read as _;
use std::process::ExitCode;
use test_hosts::{Error, Network, OwnHost, Suite};

/// Booted at once.
const TOGETHER: usize = 5;

fn main() -> ExitCode {
    let Some(count) = std::env::args().nth(1).and_then(|word| word.parse().ok()) else {
        eprintln!("usage: bare COUNT");
        return ExitCode::FAILURE;
    };
    let network = match Network::create("bare") {
        Ok(network) => network,
        Err(error) => return failed(&error),
    };
    let hosts = match boot(&network, count) {
        Ok(hosts) => hosts,
        Err(error) => return failed(&error),
    };
    if let Some(any) = hosts.first() {
        println!("{}", any.ssh_config().display());
    }
    // It ends when whoever started this is done, or dead.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    ExitCode::SUCCESS
}

fn boot(network: &Network, count: usize) -> Result<Vec<OwnHost>, Error> {
    let mut hosts = Vec::with_capacity(count);
    for first in (0..count).step_by(TOGETHER) {
        let names = (first..count.min(first + TOGETHER)).map(|n| format!("n{n}"));
        let booting: Vec<_> = names
            .map(|name| {
                let network = network.clone();
                std::thread::spawn(move || network.boot(Suite::Bookworm, &name))
            })
            .collect();
        for thread in booting {
            match thread.join() {
                Ok(host) => hosts.push(host?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    }
    Ok(hosts)
}

fn failed(error: &Error) -> ExitCode {
    eprintln!("{}", error.chain());
    ExitCode::FAILURE
}
