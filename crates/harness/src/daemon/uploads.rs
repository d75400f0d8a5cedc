//! `package.upload`: a package that comes over a connection, in pieces, and may be gone on with after a break.
//!
//! Each lies in a folder named by its digest: `part` while it comes, then under its own name once all of it is there and has
//! that digest. A broken upload stays, to be gone on with; the latest few folders are kept.

use crate::api::code;
use crate::api::package::{UploadOpened, UploadParams, Uploaded};
use service_registry::package::hash::Digest;
use service_registry::server::{IncomingStream, Streams};
use service_registry::wire::{self, RpcError};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of the largest package that is taken.
const MOST: u64 = 16 << 30;
/// Uploads that are kept, whole or not.
const KEPT: usize = 4;
/// What has come of one that isn't whole.
const PART: &str = "part";

/// The uploads of a project.
pub(super) struct Uploads {
    folder: PathBuf,
    /// Those that somebody sends now.
    coming: Mutex<BTreeSet<String>>,
}

/// An upload that nobody else may send meanwhile.
struct Claim {
    uploads: Arc<Uploads>,
    digest: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.uploads.coming.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}

impl Uploads {
    pub(super) fn new(state: &Path) -> Self {
        Self { folder: state.join("uploads"), coming: Mutex::default() }
    }

    /// Begins an upload, or goes on with one: the answer says where.
    pub(super) async fn open(
        self: &Arc<Self>,
        params: UploadParams,
        streams: &Streams,
    ) -> Result<UploadOpened, RpcError> {
        check(&params)?;
        let claim = self.claim(&params.sha256)?;
        let (uploads, wanted) = (Arc::clone(self), params.clone());
        let (file, offset) =
            blocking::unblock(move || uploads.prepare(&wanted)).await.map_err(|e| failed(&e))?;
        let uploads = Arc::clone(self);
        let stream = streams.receive(move |incoming| async move {
            let _claim = claim;
            let uploaded = uploads.receive(params, file, offset, incoming).await?;
            serde_json::to_value(uploaded).map_err(RpcError::internal)
        })?;
        Ok(UploadOpened { stream, offset })
    }

    fn claim(self: &Arc<Self>, digest: &Digest) -> Result<Claim, RpcError> {
        let digest = digest.to_string();
        let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        if !coming.insert(digest.clone()) {
            return Err(RpcError::new(code::PACKAGE, "another connection is sending this package"));
        }
        Ok(Claim { uploads: Arc::clone(self), digest })
    }

    fn folder_of(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// The file to write on, at its end, and how much is there; no file where all of it is.
    fn prepare(&self, params: &UploadParams) -> io::Result<(Option<File>, u64)> {
        let folder = self.folder_of(&params.sha256);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        self.forget_old(&folder)?;
        if folder.join(&params.name).is_file() {
            return Ok((None, params.size));
        }
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(false).mode(0o600).open(folder.join(PART))?;
        let mut offset = file.metadata()?.len();
        if offset > params.size {
            file.set_len(0)?;
            offset = 0;
        }
        file.seek(SeekFrom::Start(offset))?;
        Ok((Some(file), offset))
    }

    /// Removes the oldest uploads but this one and those that come now.
    fn forget_old(&self, own: &Path) -> io::Result<()> {
        let coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut others = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let comes = entry.file_name().to_str().is_some_and(|name| coming.contains(name));
            if !comes && entry.path() != own {
                others.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        others.sort();
        let excess = (others.len() + 1).saturating_sub(KEPT);
        for (_, path) in others.into_iter().take(excess) {
            fs::remove_dir_all(path)?;
        }
        Ok(())
    }

    async fn receive(
        &self,
        params: UploadParams,
        file: Option<File>,
        mut there: u64,
        mut incoming: IncomingStream,
    ) -> Result<Uploaded, RpcError> {
        let folder = self.folder_of(&params.sha256);
        let mut file = file;
        while let Some(bytes) = incoming.next().await? {
            there = there.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            let Some(mut open) = file.take().filter(|_| there <= params.size) else {
                return Err(refused(format!("more than its {} bytes were sent", params.size)));
            };
            let written = blocking::unblock(move || open.write_all(&bytes).map(|()| open)).await;
            file = Some(written.map_err(|error| failed(&error))?);
        }
        if there < params.size {
            let text = format!("{there} of {} bytes came: go on from there", params.size);
            return Err(refused(text).with_data(serde_json::json!({ "offset": there })));
        }
        if let Some(file) = file {
            let wanted = params.clone();
            blocking::unblock(move || finish(&file, &folder, &wanted)).await?;
        }
        let path = self.folder_of(&params.sha256).join(&params.name);
        Ok(Uploaded { file: path, size: params.size, sha256: params.sha256 })
    }
}

/// Looks at all that came and gives it its name. What is another package than was announced isn't kept.
fn finish(file: &File, folder: &Path, params: &UploadParams) -> Result<(), RpcError> {
    let part = folder.join(PART);
    let found = file.sync_all().and_then(|()| Digest::of_reader(&mut File::open(&part)?));
    let (digest, _) = found.map_err(|error| failed(&error))?;
    if digest != params.sha256 {
        fs::remove_dir_all(folder).map_err(|error| failed(&error))?;
        return Err(refused(format!("what came has the digest {digest}, announced was {}", params.sha256)));
    }
    fs::rename(part, folder.join(&params.name)).map_err(|error| failed(&error))
}

/// Whether it can be a package's file, before anything is made of its name.
fn check(params: &UploadParams) -> Result<(), RpcError> {
    let invalid = |text: String| Err(RpcError::new(wire::code::INVALID_PARAMS, text));
    let name = &params.name;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-');
    if name.len() > 200 || name.starts_with('.') || !name.chars().all(plain) {
        return invalid(format!("{name:?} isn't the name of a package's file"));
    }
    if !name.ends_with(".tar.zst") && !name.ends_with(".tar.gz") {
        return invalid(format!("{name:?} ends neither with .tar.zst nor with .tar.gz"));
    }
    if params.size > MOST {
        return invalid(format!("{} bytes are too many: at most {MOST} are taken", params.size));
    }
    Ok(())
}

fn refused(text: String) -> RpcError {
    RpcError::new(code::PACKAGE, text)
}

fn failed(error: &io::Error) -> RpcError {
    RpcError::new(code::PACKAGE, format!("can't keep the upload: {error}"))
}
