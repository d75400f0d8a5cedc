//! How long a command takes on a host: `ssh_speed CONFIG HOST FOLDER ROUNDS`, for `bench/ssh`.
//!
//! Prints a line for each way: its name and the time of each round in microseconds. The ways take turns, so that whatever
//! else the machine does hits all of them.

use command_executor::command::{Command, Stdin};
use command_executor::executor::Executor;
use command_executor::launcher::{Connections, LocalLauncher, SshHost, SshLauncher};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [config, host, folder, rounds] = words.as_slice() else {
        return Err("usage: ssh_speed CONFIG HOST FOLDER ROUNDS".into());
    };
    let rounds: usize = rounds.parse()?;
    smol::block_on(measure(config, host, folder, rounds))
}

async fn measure(config: &str, host: &str, folder: &str, rounds: usize) -> Result<(), Box<dyn Error>> {
    let here = Executor::new(LocalLauncher::new());
    let control = format!("ControlPath={folder}/plain");
    let ssh = |options: &[&str]| Command::new("ssh").args(["-F", config]).args(options.iter().copied());
    // In a session of its own: what a command leaves in its group ends with it.
    let words = ["-w", "ssh", "-F", config, "-o", &control, "-o", "ControlPersist=60", "-fNM", host];
    let master = Command::new("setsid").args(words);
    if !here.run(&master.timeout(Duration::from_secs(20))).await?.exit.is_success() {
        return Err("the host can't be reached".into());
    }
    let connections = Arc::new(Connections::new(format!("{folder}/ours"))?);
    let launcher = SshLauncher::new(LocalLauncher::new(), SshHost::new(host).config(config))
        .with_connections(connections);
    let there = Executor::new(launcher);

    let program = || Command::new("true");
    let ways: [(&str, Command); 5] = [
        ("fresh", ssh(&[host, "true"])),
        ("shared", ssh(&["-o", &control, host, "true"])),
        ("ours", program()),
        (
            "shared, 64 KiB of input",
            ssh(&["-o", &control, host, "cat >/dev/null"]).stdin(Stdin::Bytes(vec![b'x'; 65536])),
        ),
        (
            "ours, 64 KiB of input",
            Command::new("sh").args(["-c", "cat >/dev/null"]).stdin(Stdin::Bytes(vec![b'x'; 65536])),
        ),
    ];
    let mut times = vec![Vec::new(); ways.len()];
    for round in 0..rounds {
        for ((name, command), times) in ways.iter().zip(&mut times) {
            // A login is slow and varies little.
            if *name == "fresh" && round % 10 != 0 {
                continue;
            }
            let begun = Instant::now();
            let done =
                if name.starts_with("ours") { there.run(command).await? } else { here.run(command).await? };
            times.push(begun.elapsed().as_micros());
            if !done.exit.is_success() {
                return Err(format!("{name}: {}: {}", done.exit, done.stderr.to_text()).into());
            }
        }
    }
    for ((name, _), times) in ways.iter().zip(times) {
        let times: Vec<String> = times.iter().map(u128::to_string).collect();
        println!("{name}: {}", times.join(" "));
    }
    there.launcher().close().await?;
    here.run(&ssh(&["-o", &control, "-O", "exit", host])).await?;
    Ok(())
}
