//! `package.*`. Each request is a thread of its own while it works: it reads and writes files.

use crate::api::{code, package};
use crate::packages::{self, Deployed, Opened, Options, PackageError, READ, RolledBack, SCRIPT};
use service_registry::wire::RpcError;
use std::error::Error as _;
use std::time::Duration;

pub(super) async fn list(params: package::ListParams) -> Result<package::ListResult, RpcError> {
    work(move || {
        let depot = packages::depot(params.prefix.as_deref())?;
        let found = depot.list(READ).map_err(PackageError::depot(&depot))?;
        Ok(package::ListResult { root: depot.root().to_owned(), packages: found })
    })
    .await
}

pub(super) async fn deploy(params: package::DeployParams) -> Result<Deployed, RpcError> {
    if !params.file.is_absolute() {
        let text = "`file` must be an absolute path: the daemon has no folder of its caller's";
        return Err(RpcError::new(service_registry::wire::code::INVALID_PARAMS, text));
    }
    work(move || {
        let depot = packages::depot(params.prefix.as_deref())?;
        let key = params.key.as_deref().map(packages::public_key).transpose()?;
        let mut package = Opened::new(&params.file, key.as_ref())?;
        let options =
            Options { keep: params.keep, rollback_on_failure: params.rollback_on_failure, timeout: SCRIPT };
        packages::deploy(&mut package, &depot, &options, &mut |_| true)
    })
    .await
}

pub(super) async fn install(params: package::InstallParams) -> Result<Deployed, RpcError> {
    work(move || {
        let package::InstallParams { package, size, holder, keep, rollback_on_failure, timeout_ms, .. } =
            params;
        let depot = packages::depot(package.prefix.as_deref())?;
        let timeout = timeout_ms.map_or(SCRIPT, Duration::from_millis);
        let options = Options { keep, rollback_on_failure, timeout };
        packages::deploy_staged(&package.name, package.sha256, size, &holder, &depot, &options)
    })
    .await
}

pub(super) async fn rollback(params: package::RollbackParams) -> Result<RolledBack, RpcError> {
    work(move || {
        let depot = packages::depot(params.prefix.as_deref())?;
        packages::rollback(&depot, &params.name, params.version.as_ref(), false)
    })
    .await
}

async fn work<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PackageError> + Send + 'static,
) -> Result<T, RpcError> {
    blocking::unblock(work).await.map_err(|error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        RpcError::new(code::PACKAGE, text)
    })
}
