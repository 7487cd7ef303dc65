//! A peer that means harm: it says that it has every block, and sends zeros or nothing.
//!
//! Driven by the tests. It speaks the protocol of docs/peers.md from its description, without the agent's code, on a
//! thread of its own that ends when the handle is dropped. What objects there are it learns by asking its victim.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use crc_fast::{CrcAlgorithm, checksum};

/// Every block has this size: the tests choose files that are multiples of it.
const BLOCK: usize = 2 << 20;

/// Between two bytes of one that trickles.
const TRICKLE: Duration = Duration::from_millis(100);

/// What its checksums are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sums {
    /// Those of the bytes that it sends.
    Fitting,
    /// Others.
    Wrong,
    /// None: requests for blocks are never answered.
    Silent,
    /// Some, and then a byte now and then: too little to be anything, and too much to be silence.
    Trickling,
}

/// The running peer.
#[derive(Debug)]
pub struct Evil {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Evil {
    /// Listens on `address` for `victim`.
    pub fn start(address: SocketAddr, victim: SocketAddr, sums: Sums) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).context("listen as a peer")?;
        let (ended, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let shared = (Arc::clone(&ended), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let (ended, sent) = shared;
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                let sent = Arc::clone(&sent);
                // Ends when the victim closes the connection, which it does when it ends.
                std::thread::spawn(move || drop(talk(stream, victim, sums, &sent)));
            }
        });
        Ok(Self { address, ended, sent, thread: Some(thread) })
    }

    /// Blocks sent so far, or not sent by a silent one.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }
}

impl Drop for Evil {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the thread; if nobody listens any more it has ended.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn talk(stream: TcpStream, victim: SocketAddr, sums: Sums, sent: &AtomicU64) -> anyhow::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let zeros = vec![0; BLOCK];
    let crc64 = match sums {
        Sums::Fitting => checksum(CrcAlgorithm::Crc64Xz, &zeros),
        Sums::Wrong | Sums::Silent | Sums::Trickling => 7,
    };
    while let Some(line) = head(&mut reader)?.first() {
        if line.starts_with("GET /v1/have") {
            let body = everything(victim)?;
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-ossc-node: evil\r\nx-ossc-weight: 1\r\nx-ossc-age-ms: 1\r\n\
                 x-ossc-draining: 0\r\nx-ossc-queue: 0\r\n\r\n",
                body.len()
            );
            writer.write_all(head.as_bytes())?;
            writer.write_all(&body)?;
        } else if line.contains("/b/") && sums == Sums::Silent {
            sent.fetch_add(1, Ordering::AcqRel);
            // Until the victim has lost its patience.
            reader.read_line(&mut String::new())?;
            return Ok(());
        } else if line.contains("/b/") {
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {BLOCK}\r\nx-ossc-crc64: {crc64:016x}\r\n\r\n");
            writer.write_all(head.as_bytes())?;
            sent.fetch_add(1, Ordering::AcqRel);
            if sums == Sums::Trickling {
                // Until the victim closes the connection.
                loop {
                    writer.write_all(&[0])?;
                    std::thread::sleep(TRICKLE);
                }
            }
            writer.write_all(&zeros)?;
        } else {
            writer.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")?;
        }
    }
    Ok(())
}

/// The lines of a head, none at the end of the connection.
fn head(reader: &mut impl BufRead) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(lines);
        }
        lines.push(line.trim().to_owned());
    }
}

/// What the victim has, with every bit set.
fn everything(victim: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(victim)?;
    stream.write_all(b"GET /v1/have HTTP/1.1\r\nx-ossc-cluster: ossc\r\nx-ossc-node: evil\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let lines = head(&mut reader)?;
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
    let mut body = vec![0; length.parse()?];
    reader.read_exact(&mut body)?;
    let mut at = 0;
    loop {
        let blocks = body.get(at + 16..at + 20).context("the list ends early")?;
        let blocks = u32::from_le_bytes(blocks.try_into()?);
        at += 20;
        if blocks == 0 {
            break;
        }
        let words = blocks.div_ceil(64) as usize * 8;
        body.get_mut(at..at + words).context("the bitmap ends early")?.fill(0xff);
        at += words;
    }
    body.truncate(at);
    ensure!(body.len() >= 20, "the victim has no objects");
    Ok(body)
}
