//! Our server as the daemon runs it: one thread, a redb file or nothing but memory, a Unix socket and TLS.

use async_executor::Executor;
use futures_util::task::{FutureObj, Spawn, SpawnError};
use service_registry::access::{NewToken, Tokens};
use service_registry::registry::Registry;
use service_registry::server::{Entrance, Limits, NoMethods, Server, TcpListener, UnixListener};
use service_registry::store::{DurableStore, MemoryStore, Store};
use service_registry::tls::{TlsFiles, TlsServer, make_once};
use service_registry::wire::Scope;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

struct Tasks(Arc<Executor<'static>>);

impl Spawn for Tasks {
    fn spawn_obj(&self, future: FutureObj<'static, ()>) -> Result<(), SpawnError> {
        self.0.spawn(future).detach();
        Ok(())
    }
}

/// Serves until it is killed. Says `PORT FINGERPRINT TOKEN` on standard output once it does.
pub(crate) fn serve(folder: &Path, durable: bool) -> Result<(), Box<dyn Error>> {
    let store: Arc<dyn Store> = match durable {
        true => Arc::new(DurableStore::open(&folder.join("registry.redb"))?),
        false => Arc::new(MemoryStore::new()),
    };
    let executor = Arc::new(Executor::new());
    futures_lite::future::block_on(executor.run(async {
        let registry = Registry::open(store, Default::default()).await?;
        let files = TlsFiles {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            client_ca: None,
        };
        make_once(&files.certificate, &files.key, &["127.0.0.1".to_owned()], jiff::Timestamp::now())?;
        let tokens = Tokens::open(registry.clone())?;
        let new = NewToken { name: "bench".into(), scope: Scope::Admin, expires: None };
        // nobody else gets at it, and it is gone with the folder
        let (token, _) = tokens.create(new, std::array::from_fn(|n| n as u8))?;
        let entrance = Arc::new(Entrance::new(TlsServer::open(files)?, tokens, Scope::Read));
        let tcp = TcpListener::bind("127.0.0.1:0".parse()?).await?;
        let unix = UnixListener::bind(&folder.join("registry.sock"))?;
        let limits = Limits { connections: 4_096, ..Limits::default() };
        let server =
            Server::new(registry, Arc::new(NoMethods), Arc::new(Tasks(Arc::clone(&executor))), limits);
        println!("{} {} {}", tcp.address().port(), entrance.fingerprint(), token.reveal());
        let (over_tcp, over_unix) =
            futures_lite::future::zip(server.serve_tcp(&tcp, &entrance), server.serve_unix(&unix)).await;
        over_tcp?;
        over_unix?;
        Ok(())
    }))
}
