//! One connection: read a request, answer, send, again, until either side ends it.
//!
//! Runs on a thread of its own with blocking calls. The server ends it by shutting the socket down; errors end the
//! connection and nothing else.

use std::net::TcpStream;
use std::sync::Arc;

use rustls::ServerConfig;

use crate::log::End;
use crate::request::Reader;
use crate::send::Sender;
use crate::service::{Origin, Service};
use crate::stream::Stream;

/// Serves a connection to its end. Errors are the client's business: it sees them as a closed connection.
pub(crate) fn serve(
    service: &Service,
    socket: Arc<TcpStream>,
    tls: Option<Arc<ServerConfig>>,
) -> std::io::Result<()> {
    let origin = Origin { peer: socket.peer_addr()?, connection: service.log.connected() };
    let mut stream = Stream::new(socket, tls)?;
    let mut reader = Reader::default();
    let mut sender = Sender::new(&service.limiter, &service.log);
    while let Some(request) = reader.next(&mut stream)? {
        let Some(reply) = service.answer(&request, origin) else { break };
        let end = sender.send(&mut stream, &reply);
        service.log.finish(reply.id, end);
        match end {
            End::Complete if !reply.plan.close_after => {}
            End::Complete => return stream.finish(),
            // Dropping the socket is the cut, or the reset.
            _ => break,
        }
    }
    Ok(())
}
