//! The server's side: certificate, key and authorities from files that may change.

use super::{Fingerprint, TlsError, authorities, certificates, provider, read};
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Where a server's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, in PEM form, followed by those of intermediate authorities.
    pub certificate: PathBuf,
    /// Its key, in PEM form.
    pub key: PathBuf,
    /// Authorities of clients' certificates. Without it clients show none.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    fn all(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }
}

/// What a server shows to clients. The files are looked at whenever somebody connects and read again when they have
/// changed; where they can't be used, what was read before stays.
pub struct TlsServer {
    files: TlsFiles,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
    /// The files when they were last read, whatever came of it.
    stamps: Vec<Stamp>,
}

/// Tells whether a file is another one than before: inode, size, time of the last change in ns. `None` if it isn't there.
type Stamp = Option<(u64, u64, i64, i64)>;

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").field("files", &self.files).finish_non_exhaustive()
    }
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// They can't be read or used; the text names the file.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let stamps = stamps(&files);
        let (config, certificate) = load(&files)?;
        Ok(Self { files, loaded: Mutex::new(Loaded { config, certificate, stamps }) })
    }

    /// The fingerprint of the certificate that is shown now.
    pub fn fingerprint(&self) -> Fingerprint {
        self.with(|loaded| Fingerprint::of(&loaded.certificate))
    }

    /// Whether the certificate is one for this name.
    pub fn is_for(&self, name: &str) -> bool {
        let Ok(name) = ServerName::try_from(name.to_owned()) else { return false };
        self.with(|loaded| {
            let parsed = ParsedCertificate::try_from(&loaded.certificate);
            parsed.is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
        })
    }

    /// How to answer who connects now.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.with(|loaded| Arc::clone(&loaded.config))
    }

    fn with<T>(&self, what: impl FnOnce(&Loaded) -> T) -> T {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        if stamps != loaded.stamps {
            loaded.stamps = stamps;
            match load(&self.files) {
                Ok((config, certificate)) => {
                    tracing::info!(fingerprint = %Fingerprint::of(&certificate), "the certificate has changed");
                    (loaded.config, loaded.certificate) = (config, certificate);
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, "the certificate has changed and can't be used: the old one stays");
                }
            }
        }
        what(&loaded)
    }
}

fn stamps(files: &TlsFiles) -> Vec<Stamp> {
    let stamp = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    };
    files.all().map(stamp).collect()
}

fn load(files: &TlsFiles) -> Result<(Arc<ServerConfig>, CertificateDer<'static>), TlsError> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|source| TlsError::Pem {
        path: files.key.clone(),
        wanted: "private key",
        source,
    })?;
    let unusable = |source| TlsError::Unusable {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    };
    let provider = provider();
    let versions = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let clients = match &files.client_ca {
        None => versions.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                // those without one bring a token
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::Authorities {
                    path: path.clone(),
                    source: rustls::Error::General(error.to_string()),
                })?;
            versions.with_client_cert_verifier(verifier)
        }
    };
    let first = chain.first().cloned().unwrap_or_else(|| CertificateDer::from(Vec::new()));
    let mut config = clients.with_single_cert(chain, key).map_err(unusable)?;
    // what speaks something else ends before its first byte
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(config), first))
}
