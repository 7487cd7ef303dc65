//! A client that shows everything: one socket, one request at a time, no repair of anything.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use oss_server::{Config, Server};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Longest wait for anything: far above what any step takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

trait Transport: Read + Write {}
impl<T: Read + Write> Transport for T {}

/// A public server with the default bucket.
pub(crate) fn public_server() -> Server {
    Server::start(Config { public: true, ..Config::default() }).unwrap()
}

/// A status line and headers.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn length(&self) -> usize {
        self.header("content-length").map_or(0, |text| text.parse().unwrap())
    }
}

/// A whole reply.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The error code, of the body or of `x-oss-err`.
    pub(crate) fn code(&self) -> String {
        let text = match self.head.header("x-oss-err") {
            Some(encoded) => {
                let bytes = base64::prelude::BASE64_STANDARD.decode(encoded).unwrap();
                String::from_utf8(bytes).unwrap()
            }
            None => self.text().to_owned(),
        };
        let (_, rest) = text.split_once("<Code>").unwrap_or_else(|| panic!("no error: {text}"));
        rest.split_once("</Code>").unwrap().0.to_owned()
    }
}

/// One connection.
pub(crate) struct Client {
    stream: Box<dyn Transport>,
    host: String,
    pending: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(server: &Server) -> Self {
        Self::connect_to(server.address())
    }

    pub(crate) fn connect_to(address: SocketAddr) -> Self {
        Self { stream: Box::new(socket(address)), host: address.to_string(), pending: Vec::new() }
    }

    pub(crate) fn connect_tls(server: &Server, name: &str) -> Self {
        Self::connect_tls_to(server.address(), server.ca_pem().unwrap(), name)
    }

    pub(crate) fn connect_tls_to(address: SocketAddr, ca_pem: &str, name: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = StreamOwned::new(session, socket(address));
        Self { stream: Box::new(stream), host: address.to_string(), pending: Vec::new() }
    }

    /// Sends a request head, and a body if there is one.
    pub(crate) fn send(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            write!(head, "Host: {}\r\n", self.host).unwrap();
        }
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        if !body.is_empty() {
            write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
        }
        self.stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
    }

    pub(crate) fn read_head(&mut self) -> io::Result<Head> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response
                .parse(&self.pending)
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            if let httparse::Status::Complete(used) = parsed {
                let head = Head {
                    status: response.code.unwrap(),
                    headers: response
                        .headers
                        .iter()
                        .map(|header| {
                            (header.name.to_owned(), String::from_utf8(header.value.to_vec()).unwrap())
                        })
                        .collect(),
                };
                self.pending.drain(..used);
                return Ok(head);
            }
            self.receive()?;
        }
    }

    /// Reads exactly this many bytes.
    pub(crate) fn read(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.pending.len() < len {
            self.receive()?;
        }
        Ok(self.pending.drain(..len).collect())
    }

    /// Reads until the server closes; gives what came, and the error if that was not an orderly end.
    pub(crate) fn read_to_end(&mut self) -> (Vec<u8>, Option<io::Error>) {
        let error = loop {
            match self.receive() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break None,
                Err(error) => break Some(error),
            }
        };
        (std::mem::take(&mut self.pending), error)
    }

    /// One whole exchange.
    pub(crate) fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.exchange(method, target, headers, "")
    }

    pub(crate) fn exchange(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        self.send(method, target, headers, body);
        let head = self.read_head().unwrap();
        let len = if method == "HEAD" || head.status == 304 { 0 } else { head.length() };
        let body = self.read(len).unwrap();
        Reply { head, body }
    }

    pub(crate) fn get(&mut self, target: &str) -> Reply {
        self.request("GET", target, &[])
    }

    /// A ranged GET with `x-oss-range-behavior: standard`.
    pub(crate) fn get_range(&mut self, target: &str, range: &str) -> Reply {
        self.request("GET", target, &[("Range", range), ("x-oss-range-behavior", "standard")])
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 64 << 10];
        let len = self.stream.read(&mut buffer)?;
        if len == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.pending.extend_from_slice(&buffer[..len]);
        Ok(())
    }
}

fn socket(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// The `Date` and `Authorization` headers of a V1-signed GET without further signed headers, and the token header.
pub(crate) fn sign_v1(resource: &str, id: &str, secret: &str, token: &str) -> Vec<(&'static str, String)> {
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let to_sign = format!("GET\n\n\n{date}\nx-oss-security-token:{token}\n{resource}");
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(to_sign.as_bytes());
    let signature = base64::prelude::BASE64_STANDARD.encode(mac.finalize().into_bytes());
    vec![
        ("Date", date),
        ("Authorization", format!("OSS {id}:{signature}")),
        ("x-oss-security-token", token.to_owned()),
    ]
}
