//! https over the wire: which certificates are trusted, that HTTP/1.1 is agreed on with a server that would
//! rather speak HTTP/2, and that a second connection resumes the session of the first. The certificates are made
//! for each test.

use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::{HandshakeKind, ServerConfig};

use super::server::{Answer, Server};
use super::*;
use crate::base::ByteRange;

/// A server's settings with a certificate of its own for 127.0.0.1, and that certificate as PEM.
fn certificate() -> (Arc<ServerConfig>, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (Arc::new(config), made.cert.pem())
}

fn serve(tls: Arc<ServerConfig>) -> Server {
    Server::with_tls(Some(tls), |_| {
        let head = format!(
            "HTTP/1.1 206 X\r\nContent-Length: 1500000\r\nContent-Range: bytes 0-1499999/1500000\r\nETag: {ETAG}\r\n\r\n"
        );
        Answer::Send([head.into_bytes(), vec![b'x'; 1_500_000]].concat())
    })
}

#[tokio::test]
async fn trusts_the_ca_file_and_resumes_sessions() {
    let (tls, pem) = certificate();
    let server = serve(tls);
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, pem).unwrap();
    let client = Client::new(Config { ca_file: Some(ca_file), ..config(&server.url, "") }).unwrap();
    for _ in 0..2 {
        let mut connection = client.connection(None);
        for _ in 0..2 {
            let mut body = connection.get(&object(1_500_000), ByteRange::new(0, 1_500_000)).await.unwrap();
            let mut count = 0;
            while let Some(bytes) = body.next(usize::MAX).await.unwrap() {
                assert!(bytes.iter().all(|byte| *byte == b'x'));
                count += bytes.len();
            }
            assert_eq!(count, 1_500_000);
        }
    }
    let seen: Vec<_> = server.seen().iter().map(|seen| (seen.connection, seen.tls)).collect();
    let (full, resumed) = (Some(HandshakeKind::Full), Some(HandshakeKind::Resumed));
    assert_eq!(seen, [(0, full), (0, full), (1, resumed), (1, resumed)]);
}

#[tokio::test]
async fn an_unknown_certificate_is_refused() {
    let (tls, _) = certificate();
    let (_, other_pem) = certificate();
    let server = serve(tls);
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, other_pem).unwrap();
    let client = Client::new(Config { ca_file: Some(ca_file), ..config(&server.url, "") }).unwrap();
    let error = client.connection(None).get(&object(10), ByteRange::new(0, 10)).await.unwrap_err();
    assert!(matches!(error, Error::Transport { step: "connecting", .. }), "{error:?}");
    assert_eq!(server.seen().len(), 0);
}
