//! TLS of a client: the system's CAs and one more, a certificate of our own, always verified.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use crate::files::regular;

/// Largest file of certificates: those of all public CAs need a quarter of it.
pub const MAX_BYTES: u64 = 1 << 20;

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that can't be used.
    #[error("the {what} file `{path}` can't be used: {why}")]
    File {
        /// What should be in it.
        what: &'static str,
        /// As configured.
        path: String,
        /// What went wrong.
        why: String,
    },
    /// No CA at all.
    #[error("there are no trusted CA certificates; install `ca-certificates`, or set `ca_file`")]
    NoCa,
    /// The TLS library refuses its settings.
    #[error("TLS can't be set up: {0}")]
    Settings(#[from] rustls::Error),
}

/// A configuration that trusts the system's CAs and those of `ca_file`, and shows the certificate and
/// key of `identity`. TLS 1.2 and 1.3; verification can't be switched off.
pub fn client_config(
    ca_file: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        for certificate in certificates("CA", path)? {
            roots.add(certificate).map_err(|e| file_error("CA", path, &e))?;
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoCa);
    }
    let builder = versions()?.with_root_certificates(roots);
    let Some((certificate, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates("certificate", certificate)?;
    let key_der = PrivateKeyDer::from_pem_slice(&read("key", key)?);
    let key_der = key_der.map_err(|e| file_error("key", key, &e))?;
    // The likely mistake is a key that belongs to another certificate, so the key is named.
    builder.with_client_auth_cert(chain, key_der).map_err(|e| file_error("key", key, &e))
}

/// The system's CAs and those of `ca_file`, as PEM: for a library that has a TLS of its own.
pub fn trusted_pem(ca_file: Option<&Path>) -> Result<String, TlsError> {
    let mut all = rustls_native_certs::load_native_certs().certs;
    if let Some(path) = ca_file {
        all.extend(certificates("CA", path)?);
    }
    if all.is_empty() {
        return Err(TlsError::NoCa);
    }
    let block = |certificate: &CertificateDer<'_>| {
        let text = STANDARD.encode(certificate);
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", wrapped(&text))
    };
    Ok(all.iter().map(block).collect())
}

/// The certificate and the key of a client, as they stand in their files.
pub fn identity_pem(certificate: &Path, key: &Path) -> Result<(String, String), TlsError> {
    let text = |what, path| {
        String::from_utf8(read(what, path)?).map_err(|e| file_error(what, path, &e.utf8_error()))
    };
    Ok((text("certificate", certificate)?, text("key", key)?))
}

/// In lines of 64, as PEM requires.
fn wrapped(text: &str) -> String {
    let lines = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]);
    lines.collect::<Vec<_>>().join("\n")
}

/// A configuration that no server satisfies, for a client that speaks plain text.
pub fn trusting_nobody() -> Result<ClientConfig, TlsError> {
    Ok(versions()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// The provider is named, so that another one in the same build can't make the choice ambiguous.
fn versions() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(what, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = certificates.map_err(|e| file_error(what, path, &e))?;
    if certificates.is_empty() {
        return Err(file_error(what, path, &"there is no certificate in it"));
    }
    Ok(certificates)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = regular::read(path, MAX_BYTES).map_err(|e| file_error(what, path, &e))?;
    Ok(read.bytes)
}

fn file_error(what: &'static str, path: &Path, why: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { what, path: path.display().to_string(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_can_not_be_used_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        for text in [
            None,
            Some("no certificate"),
            Some("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
        ] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = client_config(Some(&path), None).unwrap_err().to_string();
            assert!(error.contains("CA file") && error.contains("ca.pem"), "{error}");
        }
    }
}
