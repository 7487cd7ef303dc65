//! The cluster's own certificate authority, for `ossc-agent peers`: makes it, and issues a certificate for each node.
//! Nothing runs: the authority is a directory of three files that stays with the operator. Keys are written for their
//! owner alone, and nothing that exists is overwritten.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use zeroize::Zeroizing;

use super::auth::{cluster_name, node_name};
use super::error::Error;
use super::id::Name;

/// The authority's certificate, which every node gets.
pub const AUTHORITY_CERTIFICATE: &str = "ca.pem";
/// Its key, which no node gets.
pub const AUTHORITY_KEY: &str = "ca-key.pem";
/// The cluster's name.
const CLUSTER: &str = "cluster";
/// Life of an authority: it can be replaced, but every node needs the new one then.
const AUTHORITY_YEARS: u64 = 20;

/// Makes an authority for `cluster` in `directory`, which is made if it is not there. Called by `cli`.
///
/// # Errors
/// When a file cannot be written or is there already.
pub fn init(directory: &Path, cluster: &Name) -> Result<(), Error> {
    let key = KeyPair::generate().map_err(|error| fail("make a key for", directory)(error.into()))?;
    let certificate = authority(cluster)
        .and_then(|params| params.self_signed(&key))
        .map_err(|error| fail("make a certificate for", directory)(error.into()))?;
    std::fs::create_dir_all(directory)
        .map_err(|error| fail("make the directory", directory)(error.into()))?;
    write(&directory.join(AUTHORITY_KEY), &Zeroizing::new(key.serialize_pem()), 0o600)?;
    write(&directory.join(AUTHORITY_CERTIFICATE), &certificate.pem(), 0o644)?;
    write(&directory.join(CLUSTER), cluster.as_str(), 0o644)
}

/// Issues a certificate for `node`, good for `days`: writes `ca.pem`, `NODE.pem` and `NODE-key.pem` into `out`.
/// Called by `cli`.
///
/// # Errors
/// When the authority in `directory` cannot be read or a file cannot be written.
pub fn issue(directory: &Path, node: &Name, days: u32, out: &Path) -> Result<(), Error> {
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read_to_string(&path).map_err(|error| fail("read the authority's", &path)(error.into()))
    };
    let cluster: Name = read(CLUSTER)?.trim().parse().map_err(|error: super::BadName| {
        fail("take the name of the cluster from", &directory.join(CLUSTER))(error.into())
    })?;
    let use_key = |error: rcgen::Error| fail("use the key", &directory.join(AUTHORITY_KEY))(error.into());
    let signer = KeyPair::from_pem(&Zeroizing::new(read(AUTHORITY_KEY)?)).map_err(use_key)?;
    let issuer = Issuer::new(authority(&cluster).map_err(use_key)?, signer);
    let path = out.join(format!("{node}.pem"));
    let make = |error: rcgen::Error| fail("make", &path)(error.into());
    let key = KeyPair::generate().map_err(make)?;
    let mut params =
        CertificateParams::new(vec![cluster_name(&cluster), node_name(&cluster, node)]).map_err(make)?;
    params.distinguished_name.push(DnType::CommonName, node.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let now = std::time::SystemTime::now();
    // An hour back, for clocks that are behind.
    params.not_before = (now - std::time::Duration::from_secs(3600)).into();
    params.not_after = (now + std::time::Duration::from_secs(u64::from(days) * 24 * 3600)).into();
    let certificate = params.signed_by(&key, &issuer).map_err(make)?;
    std::fs::create_dir_all(out).map_err(|error| fail("make the directory", out)(error.into()))?;
    write(&out.join(format!("{node}-key.pem")), &Zeroizing::new(key.serialize_pem()), 0o600)?;
    write(&path, &certificate.pem(), 0o644)?;
    let authority = out.join(AUTHORITY_CERTIFICATE);
    if authority.exists() { Ok(()) } else { write(&authority, &read(AUTHORITY_CERTIFICATE)?, 0o644) }
}

fn authority(cluster: &Name) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, format!("ossc peers of {cluster}"));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = std::time::SystemTime::now();
    params.not_before = (now - std::time::Duration::from_secs(3600)).into();
    params.not_after = (now + std::time::Duration::from_secs(AUTHORITY_YEARS * 365 * 24 * 3600)).into();
    Ok(params)
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), Error> {
    let open = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    open.and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(|error| fail("write", path)(error.into()))
}

fn fail(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Authority { what, path, source }
}
