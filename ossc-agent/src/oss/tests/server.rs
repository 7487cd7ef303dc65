//! A TCP server on a free loopback port that answers each request with what a closure says, and remembers the
//! requests. Speaks TLS if asked to. Ends with the test, also with a failed one: dropping it closes its
//! connections and joins its threads.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

/// A request as the server got it.
#[derive(Debug, Clone)]
pub(in crate::oss) struct Seen {
    /// Number of the connection, from 0.
    pub(in crate::oss) connection: usize,
    /// Number of the request on its connection, from 0.
    pub(in crate::oss) turn: usize,
    /// The client's address.
    pub(in crate::oss) peer: IpAddr,
    /// Request line and headers.
    pub(in crate::oss) head: String,
    pub(in crate::oss) body: String,
    /// How the TLS handshake went, if there was one.
    pub(in crate::oss) tls: Option<HandshakeKind>,
}

/// What to do with a request.
pub(in crate::oss) enum Answer {
    Send(Vec<u8>),
    SendAndClose(Vec<u8>),
    /// Send the first part, wait for `Server::go_on`, send the second.
    SendInParts(Vec<u8>, Vec<u8>),
}

type Handler = dyn Fn(&Seen) -> Answer + Send + Sync;

pub(in crate::oss) struct Server {
    /// `http://127.0.0.1:<port>`, or https.
    pub(in crate::oss) url: String,
    port: u16,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

struct State {
    handler: Box<Handler>,
    tls: Option<Arc<ServerConfig>>,
    seen: Mutex<Vec<Seen>>,
    open: Mutex<Vec<TcpStream>>,
    stop: AtomicBool,
    /// Whether second parts may be sent.
    go: Mutex<bool>,
    went: Condvar,
}

impl Server {
    pub(in crate::oss) fn start(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::with_tls(None, handler)
    }

    pub(in crate::oss) fn with_tls(
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(State {
            handler: Box::new(handler),
            tls,
            seen: Mutex::default(),
            open: Mutex::default(),
            stop: AtomicBool::new(false),
            go: Mutex::new(false),
            went: Condvar::new(),
        });
        let acceptor = std::thread::spawn({
            let state = Arc::clone(&state);
            move || accept(&listener, &state)
        });
        Self { url: format!("{scheme}://127.0.0.1:{port}"), port, state, acceptor: Some(acceptor) }
    }

    /// All requests so far.
    pub(in crate::oss) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Lets second parts be sent.
    pub(in crate::oss) fn go_on(&self) {
        *self.state.go.lock().unwrap() = true;
        self.state.went.notify_all();
    }

    /// The request lines so far.
    pub(in crate::oss) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(|seen| seen.head.lines().next().unwrap_or("").to_owned()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        self.go_on();
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        for stream in self.state.open.lock().unwrap().iter() {
            stream.shutdown(Shutdown::Both).ok();
        }
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().ok();
        }
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    let mut workers = Vec::new();
    for (connection, stream) in listener.incoming().enumerate() {
        let stream = stream.unwrap();
        state.open.lock().unwrap().push(stream.try_clone().unwrap());
        if state.stop.load(Ordering::SeqCst) {
            break;
        }
        let state = Arc::clone(state);
        workers.push(std::thread::spawn(move || serve(stream, connection, &state).ok()));
    }
    for worker in workers {
        worker.join().ok();
    }
}

fn serve(stream: TcpStream, connection: usize, state: &State) -> io::Result<()> {
    let peer = stream.peer_addr()?.ip();
    let seen = Seen { connection, turn: 0, peer, head: String::new(), body: String::new(), tls: None };
    match &state.tls {
        None => talk(&mut &stream, seen, state, |_| None)?,
        Some(config) => {
            let session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(session, &stream);
            talk(&mut stream, seen, state, |stream| stream.conn.handshake_kind())?;
            stream.conn.send_close_notify();
            stream.flush()?;
        }
    }
    stream.shutdown(Shutdown::Both)
}

fn talk<S: Read + Write>(
    stream: &mut S,
    mut seen: Seen,
    state: &State,
    handshake: impl Fn(&S) -> Option<HandshakeKind>,
) -> io::Result<()> {
    while let Some((head, body)) = receive(stream)? {
        (seen.head, seen.body, seen.tls) = (head, body, handshake(stream));
        state.seen.lock().unwrap().push(seen.clone());
        match (state.handler)(&seen) {
            Answer::Send(bytes) => stream.write_all(&bytes)?,
            Answer::SendAndClose(bytes) => return stream.write_all(&bytes).and_then(|()| stream.flush()),
            Answer::SendInParts(first, second) => {
                stream.write_all(&first)?;
                stream.flush()?;
                drop(state.went.wait_while(state.go.lock().unwrap(), |go| !*go).unwrap());
                stream.write_all(&second)?;
            }
        }
        stream.flush()?;
        seen.turn += 1;
    }
    Ok(())
}

/// One request; None when the client has closed.
fn receive(stream: &mut impl Read) -> io::Result<Option<(String, String)>> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        bytes.extend(byte);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some((head, String::from_utf8(body).unwrap())))
}
