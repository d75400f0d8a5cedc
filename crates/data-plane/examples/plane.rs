//! A data plane, and the far end of a link to it: `plane run STATE NODE`, `plane bridge STATE`. What tests start.

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
        ["bridge", state] => data_plane::client::bridge(state.as_ref()).map_err(|error| error.to_string()),
        _ => Err("usage: plane run STATE NODE | plane bridge STATE".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
