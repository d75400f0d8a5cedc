//! Certificates by fingerprint, and one that a server makes for itself.

use super::TlsError;
use jiff::{Timestamp, ToSpan as _, Zoned, tz::TimeZone};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr;

/// The SHA-256 of a certificate in DER form, as `openssl x509 -fingerprint -sha256` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// That of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

/// `sha256:` and 64 lower-case hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads it with or without `sha256:`, with or without colons, in any case.
impl FromStr for Fingerprint {
    type Err = TlsError;

    fn from_str(text: &str) -> Result<Self, TlsError> {
        let wrong = || TlsError::Fingerprint { text: text.chars().take(80).collect() };
        let hex = text.trim();
        let hex =
            hex.get(..7).filter(|start| start.eq_ignore_ascii_case("sha256:")).map_or(hex, |_| &hex[7..]);
        let digits: Vec<u8> = hex
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        let (pairs, []) = digits.as_chunks::<2>() else { return Err(wrong()) };
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        bytes.try_into().map(Self).map_err(|_| wrong())
    }
}

/// How long a certificate that is made here is valid: who trusts it knows its fingerprint, and is bothered by a new one.
const YEARS: i64 = 10;

/// Makes a key (ECDSA on P-256) and a certificate signed by itself for these names and addresses, unless both files are
/// there. They are only for their owner, mode 0600.
///
/// # Errors
///
/// A name is none, or the files can't be written.
pub fn make_once(certificate: &Path, key: &Path, names: &[String], now: Timestamp) -> Result<(), TlsError> {
    if certificate.exists() && key.exists() {
        return Ok(());
    }
    let mut params = CertificateParams::new(names).map_err(TlsError::Make)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, "harness");
    params.distinguished_name = subject;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let today = now.to_zoned(TimeZone::UTC);
    let date = |day: &Zoned| {
        rcgen::date_time_ymd(i32::from(day.year()), day.month().unsigned_abs(), day.day().unsigned_abs())
    };
    // A day early: the other side's clock may be behind.
    params.not_before = date(&today.saturating_sub(1.day()));
    params.not_after = date(&today.saturating_add(YEARS.years()));
    let pair = KeyPair::generate().map_err(TlsError::Make)?;
    let made = params.self_signed(&pair).map_err(TlsError::Make)?;
    // The key first: a certificate without its key is made anew.
    write(key, &pair.serialize_pem())?;
    write(certificate, &made.pem())
}

/// Writes a file for its owner only, and renames it into place: it is never seen half.
fn write(path: &Path, text: &str) -> Result<(), TlsError> {
    let failed = |source| TlsError::Write { path: path.to_owned(), source };
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let _ = std::fs::remove_file(&draft);
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&draft, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_tools_write_them() {
        let hex = "00ff".repeat(16);
        let colons = "00:FF:".repeat(16);
        for text in [hex.clone(), format!("sha256:{hex}"), format!("SHA256:{}", colons.trim_end_matches(':'))]
        {
            assert_eq!(text.parse::<Fingerprint>().unwrap().to_string(), format!("sha256:{hex}"));
        }
        for text in ["", "sha256:", "00", &hex[1..], &format!("{hex}00"), &"zz".repeat(32), "sha256é"] {
            assert!(text.parse::<Fingerprint>().is_err(), "{text}");
        }
    }
}
