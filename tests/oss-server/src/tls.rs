//! TLS for tests: an authority made at start, and a server certificate it signed.
//!
//! Clients trust the server by the authority's PEM, which the server hands out; nothing is kept on disk.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;

/// What a TLS server needs, and what its clients do.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Configuration of every connection.
    pub(crate) config: Arc<ServerConfig>,
    /// Certificate of the authority, PEM.
    pub(crate) ca_pem: String,
}

/// Makes an authority and a certificate for the loopback names, the bucket below `localhost`, and `names`.
pub(crate) fn identity(bucket: &str, names: &[String]) -> Result<Identity> {
    let ca_key = KeyPair::generate().context("cannot make the authority's key")?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "oss-server test authority");
    let ca_pem = ca.self_signed(&ca_key).context("cannot make the authority's certificate")?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let fixed = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let in_host = format!("{bucket}.localhost");
    let names: Vec<String> = fixed.into_iter().chain([in_host]).chain(names.iter().cloned()).collect();
    let mut params = CertificateParams::new(names).context("a TLS name is not usable in a certificate")?;
    params.distinguished_name.push(DnType::CommonName, "oss-server");
    let key = KeyPair::generate().context("cannot make the server's key")?;
    let certificate = params.signed_by(&key, &issuer).context("cannot sign the server's certificate")?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS has no usable protocol version")?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .context("the server's certificate is not usable")?;
    Ok(Identity { config: Arc::new(config), ca_pem })
}
