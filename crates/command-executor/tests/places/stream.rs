//! Commands as streams of bytes.

use super::*;
use command_executor::process::ByteStream;
use futures_lite::{AsyncReadExt, AsyncWriteExt};

/// Bytes of every kind that don't repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

/// Sends everything and gets it back, both at once.
async fn echo(stream: ByteStream, bytes: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = futures_lite::io::split(stream);
    let writing = async {
        writer.write_all(bytes).await.unwrap();
        writer.close().await.unwrap();
    };
    let mut back = Vec::with_capacity(bytes.len());
    futures_lite::future::zip(writing, reader.read_to_end(&mut back)).await.1.unwrap();
    back
}

fn cat() -> Command {
    Command::new("cat")
}

#[test]
fn bytes_go_both_ways_as_they_are() {
    on_both(async || {
        let bytes = noise(4 << 20);
        let stream = LocalLauncher::new().pipe(&cat()).unwrap();
        assert!(echo(stream, &bytes).await == bytes);
        // What it says beside doesn't stop it.
        let talker = sh("head -c 1000000 /dev/zero >&2; echo done; echo why >&2; exit 3");
        let mut stream = LocalLauncher::new().pipe(&talker).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "done\n");
        let error = stream.explain(true, Duration::from_secs(10)).await;
        assert_eq!((error.kind, error.place.as_str()), (PlaceErrorKind::Lost, "this machine"));
        // Nobody waits longer than that.
        let stream = LocalLauncher::new().pipe(&sh("trap '' TERM; exec sleep 1000")).unwrap();
        let pid = stream.pid();
        let error = stream.explain(false, Duration::from_millis(50)).await;
        assert_eq!(error.kind, PlaceErrorKind::Lost, "{error}");
        while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            async_io::Timer::after(Duration::from_millis(2)).await;
        }
    });
}

fn everywhere_on(suite: Suite) {
    let host = require!(Host::shared(suite));
    let folder = tempfile::tempdir().unwrap();
    let shared = connections(&folder);
    let bytes = noise(8 << 20);
    for (name, way, connections) in [
        ("ssh", vec![Place::Ssh(ssh(&host, User::App))], None),
        ("ssh, shared", vec![Place::Ssh(ssh(&host, User::App))], Some(&shared)),
        ("ssh, sudo", vec![Place::Ssh(ssh(&host, User::App)), Place::Sudo(Sudo::new())], None),
    ] {
        let place = place(&way, connections);
        bounded(async {
            place.prepare().await.unwrap();
            let begun = Instant::now();
            assert!(echo(place.pipe(&cat()).unwrap(), &bytes).await == bytes, "{name}");
            eprintln!("{name}: {} MiB there and back in {:?}", bytes.len() >> 20, begun.elapsed());
            // What reads there ends when this end is gone.
            let nowhere = format!("/nowhere/{:08}", fastrand::u32(..100_000_000));
            let mut stream = place.pipe(&Command::new("cat").args(["-", &nowhere])).unwrap();
            stream.write_all(b"up").await.unwrap();
            stream.read_exact(&mut [0; 2]).await.unwrap();
            host.sh(&format!("pgrep -fx 'cat - {nowhere}'")).unwrap();
            drop(stream);
            host.wait_until(&format!("! pgrep -fx 'cat - {nowhere}'")).unwrap();
        });
    }
    bounded(shared_close(&host, &shared));
}

async fn shared_close(host: &Host, connections: &Arc<Connections>) {
    let place = SshLauncher::new(LocalLauncher::new(), ssh(host, User::App));
    place.with_connections(Arc::clone(connections)).close().await.unwrap();
}

#[test]
fn bytes_go_through_places_as_they_are_on_bookworm() {
    everywhere_on(Suite::Bookworm);
}

#[test]
fn bytes_go_through_places_as_they_are_on_trixie() {
    everywhere_on(Suite::Trixie);
}

#[test]
fn a_stream_that_ends_says_at_which_step() {
    let host = require!(Host::shared(Suite::Bookworm));
    let why = |way: &[Place], command: Command| {
        let place = place(way, None);
        bounded(async {
            let mut stream = place.pipe(&command).unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
            stream.explain(false, Duration::from_secs(10)).await
        })
    };
    let app = || ssh(&host, User::App);
    let nobody = SshHost::new(host.name()).user("nobody-there").config(host.ssh_config());
    for (way, hop, kind) in [
        (vec![Place::Ssh(app().port(9))], Some(HopKind::Ssh), PlaceErrorKind::Refused),
        (vec![Place::Ssh(nobody)], Some(HopKind::Ssh), PlaceErrorKind::AuthDenied),
        (
            vec![Place::Ssh(app().known_hosts("/dev/null"))],
            Some(HopKind::Ssh),
            PlaceErrorKind::HostKeyUnknown,
        ),
        (
            vec![Place::Ssh(ssh(&host, User::Plain)), Place::Sudo(Sudo::new())],
            Some(HopKind::Sudo),
            PlaceErrorKind::SudoPasswordNeeded,
        ),
    ] {
        let error = why(&way, cat());
        assert_eq!((error.hop, error.kind), (hop, kind), "{error}");
    }
    let error = why(&[Place::Ssh(app())], sh("echo its own words >&2; exit 4"));
    assert_eq!(error.kind, PlaceErrorKind::Other);
    assert!(error.detail.contains("its own words"), "{error}");
    let refused = place(&[Place::Ssh(app())], None).pipe(&cat().env("A", "1"));
    assert!(matches!(refused, Err(LaunchError::Carry { .. })));
    let refused = SudoLauncher::new(LocalLauncher::new(), pw()).pipe(&cat());
    assert!(matches!(refused, Err(LaunchError::Carry { .. })), "the password would be read by the program");
}
