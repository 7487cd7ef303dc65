//! Mutual TLS 1.3 with a private certificate authority, one for each cluster. A certificate carries two names:
//! `CLUSTER.peers.ossc`, which both ends demand of each other, and `NODE.CLUSTER.peers.ossc`, which must be that of
//! the node a request says it comes from. Files that change are taken up without a restart; a set that does not
//! fit together is reported and the old one stays in use.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::peer::config::TlsFiles;
use crate::peer::error::Error;
use crate::peer::id::Name;
use crate::peer::stream::Stream;

/// Below this stand all names in certificates; no such domain exists, so none of a public authority can carry it.
pub(in crate::peer) const DOMAIN: &str = "peers.ossc";

/// This node's certificate and whom it trusts.
#[derive(Debug)]
pub(in crate::peer) struct Certificates {
    files: TlsFiles,
    cluster: Name,
    node: Name,
    current: RwLock<Configs>,
    /// What was read last, whether it could be used or not.
    stamp: Mutex<Stamp>,
}

#[derive(Debug, Clone)]
struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// Modification times of the three files.
type Stamp = [Option<SystemTime>; 3];

impl Certificates {
    /// Reads the files and checks that they belong together and to this node.
    pub(in crate::peer) fn load(files: &TlsFiles, cluster: &Name, node: &Name) -> Result<Self, Error> {
        let stamp = stamp(files);
        let current = configs(files, cluster, node)?;
        Ok(Self {
            files: files.clone(),
            cluster: cluster.clone(),
            node: node.clone(),
            current: RwLock::new(current),
            stamp: Mutex::new(stamp),
        })
    }

    /// Reads the files again if they have changed.
    pub(in crate::peer) fn reload(&self) {
        let now = stamp(&self.files);
        let mut last = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == now {
            return;
        }
        *last = now;
        match configs(&self.files, &self.cluster, &self.node) {
            Ok(configs) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = configs;
                tracing::info!(certificate = %self.files.certificate.display(), "new certificates are in use");
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "changed certificates cannot be used; the old ones stay"
                );
            }
        }
    }

    fn current(&self) -> Configs {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::peer) async fn connect(&self, stream: TcpStream) -> io::Result<Stream> {
        let name = server_name(&cluster_name(&self.cluster))?;
        let stream = TlsConnector::from(self.current().client).connect(name, stream).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    pub(in crate::peer) async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        let stream = TlsAcceptor::from(self.current().server).accept(stream).await?;
        let stream = TlsStream::from(stream);
        if !carries(&stream, &cluster_name(&self.cluster)) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a certificate of another cluster"));
        }
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// Whether the other end's certificate is that of this node.
    pub(in crate::peer) fn is_node(&self, stream: &TlsStream<TcpStream>, node: &Name) -> bool {
        carries(stream, &node_name(&self.cluster, node))
    }
}

/// The name that all certificates of a cluster carry.
pub(in crate::peer) fn cluster_name(cluster: &Name) -> String {
    format!("{cluster}.{DOMAIN}")
}

/// The name that only a node's certificate carries.
pub(in crate::peer) fn node_name(cluster: &Name, node: &Name) -> String {
    format!("{node}.{cluster}.{DOMAIN}")
}

fn server_name(name: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(name.to_owned()).map_err(io::Error::other)
}

fn carries(stream: &TlsStream<TcpStream>, name: &str) -> bool {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    certificates.first().is_some_and(|certificate| has_name(certificate, name))
}

fn has_name(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
    server_name(name).is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
}

fn stamp(files: &TlsFiles) -> Stamp {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|facts| facts.modified()).ok();
    [modified(&files.authority), modified(&files.certificate), modified(&files.key)]
}

fn configs(files: &TlsFiles, cluster: &Name, node: &Name) -> Result<Configs, Error> {
    let read = |path: &Path| {
        std::fs::read(path)
            .map_err(|source| Error::Certificate { path: path.to_owned(), source: source.into() })
    };
    let pem = |path: &Path| -> Result<Vec<CertificateDer<'static>>, Error> {
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| Error::Certificate {
            path: path.to_owned(),
            source,
        };
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
        let found = found.map_err(|error| fail(error.into()))?;
        if found.is_empty() {
            return Err(fail("the file has no PEM certificate".into()));
        }
        Ok(found)
    };
    let chain = pem(&files.certificate)?;
    let fail = |source: Box<dyn std::error::Error + Send + Sync>| Error::Certificate {
        path: files.certificate.clone(),
        source,
    };
    let own = chain
        .first()
        .is_some_and(|own| has_name(own, &cluster_name(cluster)) && has_name(own, &node_name(cluster, node)));
    if !own {
        return Err(Error::OtherNode {
            path: files.certificate.clone(),
            cluster: cluster.clone(),
            node: node.clone(),
        });
    }
    let key = || {
        PrivateKeyDer::from_pem_slice(&read(&files.key)?)
            .map_err(|error| Error::Certificate { path: files.key.clone(), source: error.into() })
    };
    let mut roots = RootCertStore::empty();
    for root in pem(&files.authority)? {
        roots
            .add(root)
            .map_err(|error| Error::Certificate { path: files.authority.clone(), source: error.into() })?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = [&rustls::version::TLS13];
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(|error| fail(error.into()))?;
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| fail(error.into()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key()?)
        .map_err(|error| fail(error.into()))?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| fail(error.into()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key()?)
        .map_err(|error| fail(error.into()))?;
    Ok(Configs { client: Arc::new(client), server: Arc::new(server) })
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::peer::authority;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    /// An authority with a node's certificate.
    fn issued(dir: &Path, cluster: &str, node: &str) -> TlsFiles {
        let ca = dir.join(format!("ca-{cluster}"));
        if !ca.exists() {
            authority::init(&ca, &name(cluster)).unwrap();
        }
        let out = dir.join(node);
        authority::issue(&ca, &name(node), 7, &out).unwrap();
        TlsFiles {
            authority: out.join("ca.pem"),
            certificate: out.join(format!("{node}.pem")),
            key: out.join(format!("{node}-key.pem")),
        }
    }

    /// Connects the two and exchanges a byte: the ends, or why not.
    async fn meet(client: &Certificates, server: &Certificates) -> io::Result<(Stream, Stream)> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let dial = async {
            let mut stream = client.connect(TcpStream::connect(address).await?).await?;
            stream.write_all(b"x").await?;
            stream.flush().await?;
            // TLS 1.3: a client learns with the first byte whether its certificate was taken.
            stream.read_u8().await?;
            Ok::<_, io::Error>(stream)
        };
        let take = async {
            let (stream, _) = listener.accept().await?;
            let mut stream = server.accept(stream).await?;
            stream.read_u8().await?;
            stream.write_all(b"y").await?;
            stream.flush().await?;
            Ok::<_, io::Error>(stream)
        };
        tokio::try_join!(dial, take)
    }

    #[tokio::test]
    async fn nodes_of_one_authority_know_each_other_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (blue, other) = (name("blue"), tempfile::tempdir().unwrap());
        let load = |dir: &Path, node: &str| {
            Certificates::load(&issued(dir, "blue", node), &blue, &name(node)).unwrap()
        };
        let (a, b, stranger) = (load(dir.path(), "a"), load(dir.path(), "b"), load(other.path(), "a"));
        let (at_a, at_b) = meet(&a, &b).await.unwrap();
        let (Stream::Tls(at_a), Stream::Tls(at_b)) = (&at_a, &at_b) else { panic!("not encrypted") };
        assert!(a.is_node(at_a, &name("b")) && b.is_node(at_b, &name("a")));
        assert!(!a.is_node(at_a, &name("a")) && !b.is_node(at_b, &name("c")));
        assert!(meet(&stranger, &b).await.is_err() && meet(&a, &stranger).await.is_err());
    }

    #[tokio::test]
    async fn a_certificate_is_for_one_cluster_and_one_node_and_can_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let files = issued(dir.path(), "blue", "a");
        let load = |cluster, node| Certificates::load(&files, &name(cluster), &name(node));
        assert!(matches!(load("red", "a"), Err(Error::OtherNode { .. })));
        assert!(matches!(load("blue", "b"), Err(Error::OtherNode { .. })));
        let a = load("blue", "a").unwrap();
        let b = Certificates::load(&issued(dir.path(), "blue", "b"), &name("blue"), &name("b")).unwrap();
        // Rubbish is not taken up.
        let good = std::fs::read(&files.certificate).unwrap();
        std::fs::write(&files.certificate, "rubbish").unwrap();
        *a.stamp.lock().unwrap() = [None; 3];
        a.reload();
        meet(&a, &b).await.unwrap();
        // Those of another authority are, and the old peer is a stranger then.
        std::fs::write(&files.certificate, good).unwrap();
        let other = tempfile::tempdir().unwrap();
        let new = issued(other.path(), "blue", "a");
        for (from, to) in [
            (&new.authority, &files.authority),
            (&new.certificate, &files.certificate),
            (&new.key, &files.key),
        ] {
            std::fs::copy(from, to).unwrap();
        }
        *a.stamp.lock().unwrap() = [None; 3];
        a.reload();
        assert!(meet(&a, &b).await.is_err());
    }

    #[test]
    fn keys_are_private_and_nothing_is_overwritten() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let files = issued(dir.path(), "blue", "a");
        for key in [&files.key, &dir.path().join("ca-blue/ca-key.pem")] {
            assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(authority::init(&dir.path().join("ca-blue"), &name("blue")).is_err());
        assert!(authority::issue(&dir.path().join("ca-blue"), &name("a"), 1, &dir.path().join("a")).is_err());
    }
}
