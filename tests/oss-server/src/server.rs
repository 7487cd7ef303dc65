//! The running server: listener, threads, and the handles tests steer it by.
//!
//! One thread accepts, each connection has its own. Dropping the server ends them all and waits for them: sockets
//! are shut down, held replies are released, and when `drop` returns no thread and no socket is left.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::ServerConfig;

use crate::auth::Keys;
use crate::config::Config;
use crate::connection;
use crate::faults::Faults;
use crate::log::Log;
use crate::metadata::Metadata;
use crate::objects::Object;
use crate::service::Service;
use crate::tls;

/// Stack of a connection's thread: buffers are on the heap, so thousands of connections fit.
const STACK: usize = 256 << 10;

/// How long to wait when no connection can be accepted, for lack of file descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    address: SocketAddr,
    ca_pem: Option<String>,
    /// Closing it wakes and ends the accepting thread; a byte in it is an order.
    stop: Option<UnixStream>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server; it accepts connections when this returns.
    pub fn start(config: Config) -> Result<Self> {
        let listener = TcpListener::bind(config.listen)
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let address = listener.local_addr().context("the listening socket has no address")?;
        listener.set_nonblocking(true).context("cannot make the listening socket non-blocking")?;
        let identity =
            if config.tls { Some(tls::identity(&config.bucket, &config.tls_names)?) } else { None };
        let (tls, ca_pem) = identity.map_or((None, None), |own| (Some(own.config), Some(own.ca_pem)));
        let service = Arc::new(Service::new(config).context("cannot create the log file")?);
        let (stop, stopped) = UnixStream::pair().context("cannot make a pair of sockets")?;
        let acceptor = Acceptor { service: Arc::clone(&service), tls, address, connections: Vec::new() };
        let acceptor = thread::Builder::new()
            .name("oss-accept".to_owned())
            .spawn(move || acceptor.run(listener, &stopped))
            .context("cannot start the accepting thread")?;
        Ok(Self { service, address, ca_pem, stop: Some(stop), acceptor: Some(acceptor) })
    }

    /// Address the server listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL of the server without a bucket: `http://127.0.0.1:PORT`. Clients use path style with it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}://{}", if self.ca_pem.is_some() { "https" } else { "http" }, self.address)
    }

    /// Name of the bucket.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.service.config.bucket
    }

    /// Certificate of the authority that clients must trust, PEM; `None` without TLS.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Adds or replaces an object.
    pub fn put(&self, key: &str, object: Object) {
        self.service.objects.put(key, object, self.service.clock.now());
    }

    /// Adds every file below a folder, with keys relative to it behind `prefix`; gives their number.
    pub fn put_dir(&self, prefix: &str, dir: &Path) -> Result<usize> {
        self.service.objects.add_dir(prefix, dir)
    }

    /// Removes an object; false if there was none.
    pub fn delete(&self, key: &str) -> bool {
        self.service.objects.delete(key)
    }

    /// ETag of an object, with quotes.
    #[must_use]
    pub fn etag(&self, key: &str) -> Option<String> {
        self.service.objects.get(key).map(|object| object.etag.clone())
    }

    /// The request log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.service.log
    }

    /// The fault rules.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.service.faults
    }

    /// The access keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.service.keys
    }

    /// The credential services, if configured.
    #[must_use]
    pub fn metadata(&self) -> Option<&Metadata> {
        self.service.metadata.as_ref()
    }

    /// Limits all bodies together to this many bytes per second, at once; 0 lifts the limit.
    pub fn set_rate(&self, bytes_per_second: u64) {
        self.service.limiter.set_shared(bytes_per_second);
    }

    /// Limits the bodies on each connection to this many bytes per second, at once; 0 lifts the limit.
    pub fn set_connection_rate(&self, bytes_per_second: u64) {
        self.service.limiter.set_connection(bytes_per_second);
    }

    /// Refuses connections from now on and resets those there are, as a machine does whose server has died; or
    /// accepts them again, at the same address. Done when this returns. To be sure of the address later, listen on
    /// one that nobody else uses, such as `127.1.2.3`.
    pub fn set_refusing(&self, refusing: bool) -> Result<()> {
        let mut orders = self.stop.as_ref().context("the server has stopped")?;
        orders.write_all(&[if refusing { REFUSE } else { ACCEPT }]).context("cannot give an order")?;
        let mut done = [0];
        orders.read_exact(&mut done).context("the accepting thread has ended")?;
        anyhow::ensure!(done == [DONE], "cannot listen on {} again", self.address);
        Ok(())
    }

    /// Makes listing pages at most this long, whatever the client asks for.
    pub fn set_page_limit(&self, limit: Option<usize>) {
        self.service.set_page_limit(limit);
    }

    /// Sets how many seconds the server's clock is ahead of the machine's.
    pub fn set_clock_offset(&self, seconds: i64) {
        self.service.clock.set_offset(seconds);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(acceptor) = self.acceptor.take()
            && acceptor.join().is_err()
        {
            eprintln!("oss-server: the accepting thread panicked");
        }
    }
}

/// Orders to the accepting thread, and its answers.
const REFUSE: u8 = b'r';
const ACCEPT: u8 = b'a';
const DONE: u8 = b'd';
const FAILED: u8 = b'f';

/// The accepting thread and the connections it started.
struct Acceptor {
    service: Arc<Service>,
    tls: Option<Arc<ServerConfig>>,
    address: SocketAddr,
    connections: Vec<(JoinHandle<()>, Weak<TcpStream>)>,
}

impl Acceptor {
    fn run(mut self, listener: TcpListener, stopped: &UnixStream) {
        let mut listener = Some(listener);
        loop {
            match wait(listener.as_ref(), stopped) {
                Woken::Connection => {}
                Woken::Order(order) => {
                    let done = self.obey(order, &mut listener).is_ok();
                    // Whoever gave the order may have gone; then the next wait ends the thread.
                    (&*stopped).write_all(&[if done { DONE } else { FAILED }]).unwrap_or_default();
                    continue;
                }
                Woken::Stop => break,
            }
            match listener.as_ref().map(TcpListener::accept) {
                Some(Ok((socket, _))) => self.start(socket),
                Some(Err(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Some(Err(error)) if error.kind() == ErrorKind::ConnectionAborted => {}
                Some(Err(_)) => thread::sleep(ACCEPT_PAUSE),
                None => {}
            }
        }
        self.shut_down_connections();
        // Only now, lest those who wait send on: their sockets are shut.
        self.service.limiter.close();
        self.service.faults.clear();
        for (thread, _) in self.connections.drain(..) {
            if thread.join().is_err() {
                eprintln!("oss-server: a connection's thread panicked");
            }
        }
    }

    fn obey(&mut self, order: u8, listener: &mut Option<TcpListener>) -> io::Result<()> {
        if order == REFUSE {
            *listener = None;
            self.shut_down_connections();
        } else if listener.is_none() {
            let again = TcpListener::bind(self.address)?;
            again.set_nonblocking(true)?;
            *listener = Some(again);
        }
        Ok(())
    }

    fn shut_down_connections(&self) {
        for (_, socket) in &self.connections {
            if let Some(socket) = socket.upgrade() {
                // The connection may have ended by itself just now.
                socket.shutdown(Shutdown::Both).unwrap_or_default();
            }
        }
    }

    fn start(&mut self, socket: TcpStream) {
        self.connections.retain(|(thread, _)| !thread.is_finished());
        if socket.set_nonblocking(false).is_err() {
            return;
        }
        let socket = Arc::new(socket);
        let weak = Arc::downgrade(&socket);
        let (service, tls) = (Arc::clone(&self.service), self.tls.clone());
        let started =
            thread::Builder::new().name("oss-connection".to_owned()).stack_size(STACK).spawn(move || {
                // How a connection ended is in the log, request by request.
                connection::serve(&service, socket, tls).unwrap_or_default();
            });
        match started {
            Ok(thread) => self.connections.push((thread, weak)),
            Err(error) => eprintln!("oss-server: cannot start a thread for a connection: {error}"),
        }
    }
}

/// What the accepting thread is woken by.
enum Woken {
    Connection,
    Order(u8),
    Stop,
}

/// Waits for a connection, an order, or the end.
fn wait(listener: Option<&TcpListener>, stopped: &UnixStream) -> Woken {
    loop {
        let mut fds = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        fds.extend(listener.map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE).map_err(io::Error::from) {
            Ok(_) if fds[0].any().unwrap_or(true) => {
                let mut order = [0];
                return match (&*stopped).read(&mut order) {
                    Ok(1) => Woken::Order(order[0]),
                    _ => Woken::Stop,
                };
            }
            Ok(_) => return Woken::Connection,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Woken::Stop,
        }
    }
}
