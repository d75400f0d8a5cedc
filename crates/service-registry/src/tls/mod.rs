//! TLS 1.2 and 1.3 for what leaves the machine.
//!
//! A server has a certificate of its own, made at its first start, or the user's; it is read again when its files change
//! ([`TlsServer`]). A client trusts one certificate by its fingerprint, or those that an authority signed ([`Trust`]).
//! Both use ring, always by name: the process has no default that could be another.

mod certificate;
mod client;
mod server;

pub use certificate::{Fingerprint, make_once};
pub(crate) use client::for_people;
pub use client::{TlsClient, Trust};
pub use server::{TlsFiles, TlsServer};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file can't be written.
    #[error("can't write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file isn't PEM, or has something else in it.
    #[error("{} has no {wanted} in PEM form", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key don't fit together, or can't be used.
    #[error("{} and {} can't be used", .certificate.display(), .key.display())]
    Unusable {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// Certificates of authorities can't be used.
    #[error("the certificates in {} can't be used as authorities", .path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A certificate can't be made.
    #[error("can't make a certificate")]
    Make(#[source] rcgen::Error),
    /// A file is larger than such a file ever is.
    #[error("{} is larger than {MOST} bytes, which no file of certificates or keys is", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Text that is no fingerprint.
    #[error("a fingerprint is the SHA-256 of a certificate, 64 hexadecimal digits, not {text:?}")]
    Fingerprint {
        /// The text, at most 80 characters of it.
        text: String,
    },
}

/// Bytes of the largest file that is read: all the authorities of a system fit.
const MOST: u64 = 4 << 20;

/// The one provider of cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read as _;
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MOST {
        return Err(TlsError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// The certificates in a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem { path: path.to_owned(), wanted: "certificate", source };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found.map_err(failed)? {
        none if none.is_empty() => Err(failed(pem::Error::NoItemsFound)),
        found => Ok(found),
    }
}

/// The authorities in a file.
fn authorities(path: &Path) -> Result<rustls::RootCertStore, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| TlsError::Authorities { path: path.to_owned(), source })?;
    }
    Ok(roots)
}
