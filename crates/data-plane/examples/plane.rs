//! A data plane, the far end of a link to it, and an ambassador: `plane run STATE NODE`, `plane bridge STATE`,
//! `plane ambassador STATE SERVICE PORT`. What tests start.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["run", state, node] => {
            let options =
                data_plane::Options { state: state.into(), node: (*node).to_owned(), build: String::new() };
            data_plane::run(options).map_err(|error| error.to_string())
        }
        ["ambassador", state, service, port] => {
            let door = std::path::Path::new(state).join("door/door.sock");
            let ports = port.parse().into_iter().collect();
            let ambassador = data_plane::Ambassador { door, service: (*service).to_owned(), ports };
            ambassador.run().map_err(|error| error.to_string())
        }
        ["bridge", state] => data_plane::client::bridge(state.as_ref()).map_err(|error| error.to_string()),
        _ => Err("usage: plane run STATE NODE | plane bridge STATE | plane ambassador STATE SERVICE PORT"
            .to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
