//! The client's side: whom to trust, and what to show.

use super::{Fingerprint, TlsError, authorities, certificates, provider, read};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which servers a client believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The one with this certificate, whatever its names and dates.
    Certificate(Fingerprint),
    /// Those whose certificate was signed by one in this file (PEM), or is in it, and has the name that was asked for.
    Authorities(PathBuf),
}

/// How a client speaks TLS. Cheap to clone.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClient")
    }
}

impl TlsClient {
    /// A client that believes these servers and shows the certificate in `own` (certificate and key, PEM files), if any.
    ///
    /// # Errors
    ///
    /// A file can't be read or used.
    pub fn new(trust: &Trust, own: Option<(&Path, &Path)>) -> Result<Self, TlsError> {
        let provider = provider();
        let unusable = |source| {
            let (certificate, key) = own.unwrap_or((Path::new(""), Path::new("")));
            TlsError::Unusable { certificate: certificate.to_owned(), key: key.to_owned(), source }
        };
        let versions = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let trusting = match trust {
            Trust::Authorities(path) => versions.with_root_certificates(authorities(path)?),
            Trust::Certificate(fingerprint) => {
                let pinned = Pinned { fingerprint: *fingerprint, provider };
                versions.dangerous().with_custom_certificate_verifier(Arc::new(pinned))
            }
        };
        let mut config = match own {
            None => trusting.with_no_client_auth(),
            Some((certificate, key)) => {
                let wrong = |source| TlsError::Pem { path: key.to_owned(), wanted: "private key", source };
                let der = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(wrong)?;
                trusting.with_client_auth_cert(certificates(certificate)?, der).map_err(unusable)?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }
}

/// What went wrong in a handshake, for people: rustls shows errors of other verifiers as Rust would.
pub(crate) fn for_people(error: io::Error) -> io::Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(other)))) => {
            io::Error::new(error.kind(), other.to_string())
        }
        _ => error,
    }
}

/// Believes one certificate, and whoever proves to have its key.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(end_entity);
        if shown == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(
            WrongFingerprint { shown },
        )))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The server has another certificate than the one that is trusted.
#[derive(Debug, thiserror::Error)]
#[error("the server shows another certificate than the one that is trusted: {shown}")]
struct WrongFingerprint {
    shown: Fingerprint,
}
