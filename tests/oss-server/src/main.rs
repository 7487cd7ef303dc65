//! The test server as a program, for demonstrations and benches: serves a folder and computed objects until SIGTERM or
//! SIGINT.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use oss_server::{AccessKey, Config, Object, Rule, Server, synthetic};

/// Stand-alone OSS test server.
#[derive(Debug, Parser)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Name of the bucket
    #[arg(long, default_value = "test-bucket")]
    bucket: String,
    /// Region that V4 signatures must name
    #[arg(long, default_value = "cn-hangzhou")]
    region: String,
    /// Folder whose files are the objects; keys are the relative paths
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Computed object: KEY=SIZE[,seed=N][,tiled][,crc|,nocrc]; SIZE in bytes or with K, M, G or T (powers of 1024);
    /// with crc, its checksum is known before the server listens, else computed when it is first asked for.
    /// With {N} in the KEY as many objects, {N} being their numbers
    #[arg(long, value_name = "SPEC")]
    synthetic: Vec<String>,
    /// Access key as ID:SECRET; without any, only --public makes sense
    #[arg(long, value_name = "ID:SECRET")]
    access_key: Vec<String>,
    /// Security token that makes the access keys temporary ones
    #[arg(long, value_name = "TOKEN")]
    sts: Option<String>,
    /// Allow unsigned reads
    #[arg(long)]
    public: bool,
    /// Limit of all bodies together, bytes per second
    #[arg(long, default_value = "0", value_parser = size_argument)]
    rate: u64,
    /// Limit of each connection, bytes per second
    #[arg(long, default_value = "0", value_parser = size_argument)]
    connection_rate: u64,
    /// Most entries of a listing page
    #[arg(long)]
    page_limit: Option<usize>,
    /// Speak TLS with a certificate of an authority made at start
    #[arg(long)]
    tls: bool,
    /// Further host name of the certificate
    #[arg(long, value_name = "NAME")]
    tls_name: Vec<String>,
    /// File for the authority's certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls")]
    ca_file: Option<PathBuf>,
    /// File for one JSON line a request
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Fault rule: FAULT[=VALUE][,RESTRICTION=VALUE]..., as in `stall=20,op=get,times=3`
    #[arg(long, value_name = "SPEC", value_parser = rule_argument)]
    fault: Vec<Rule>,
    /// File for the port number, written when the server accepts connections
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // Blocked before any thread starts, so that only the wait below receives them.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("cannot block signals")?;

    let server = Server::start(config(&arguments)?)?;
    if let Some(dir) = &arguments.dir {
        server.put_dir("", dir)?;
    }
    for spec in &arguments.synthetic {
        let (key, object) = computed(spec).with_context(|| format!("--synthetic {spec}"))?;
        for key in keys(&key) {
            server.put(&key, object.clone());
        }
    }
    for rule in arguments.fault {
        server.faults().add(rule);
    }
    if let (Some(file), Some(pem)) = (&arguments.ca_file, server.ca_pem()) {
        replace(file, pem)?;
    }
    if let Some(file) = &arguments.port_file {
        replace(file, &format!("{}\n", server.address().port()))?;
    }
    println!("listening on {}", server.endpoint());
    signals.wait().context("cannot wait for signals")?;
    Ok(())
}

fn config(arguments: &Arguments) -> Result<Config> {
    let access_keys = arguments
        .access_key
        .iter()
        .map(|pair| {
            let (id, secret) = pair.split_once(':').context("--access-key is not ID:SECRET")?;
            Ok(AccessKey { id: id.to_owned(), secret: secret.to_owned(), token: arguments.sts.clone() })
        })
        .collect::<Result<_>>()?;
    Ok(Config {
        listen: arguments.listen,
        bucket: arguments.bucket.clone(),
        region: arguments.region.clone(),
        access_keys,
        public: arguments.public,
        rate: arguments.rate,
        connection_rate: arguments.connection_rate,
        page_limit: arguments.page_limit,
        tls: arguments.tls,
        tls_names: arguments.tls_name.clone(),
        log_file: arguments.log.clone(),
        keep_log: false,
        ..Config::default()
    })
}

/// Reads the text form of a computed object.
fn computed(spec: &str) -> Result<(String, Object)> {
    let (key, rest) = spec.split_once('=').context("expected KEY=SIZE")?;
    ensure!(!key.is_empty(), "the key is empty");
    let mut parts = rest.split(',');
    let size = size(parts.next().unwrap_or_default())?;
    let (mut seed, mut tiled, mut crc) = (synthetic::seed_of(key), false, None);
    for part in parts {
        match part.split_once('=').unwrap_or((part, "")) {
            ("seed", value) => seed = value.parse().context("the seed is not a number")?,
            ("tiled", "") => tiled = true,
            ("crc", "") => crc = Some(true),
            ("nocrc", "") => crc = Some(false),
            _ => bail!("there is no option {part:?}"),
        }
    }
    let object = if tiled { Object::tiled(seed, size) } else { Object::synthetic(seed, size) };
    let object = match crc {
        Some(true) => {
            let object = object.with_crc64();
            // Before anybody waits for it.
            object.crc64()?;
            object
        }
        Some(false) => object.without_crc64(),
        None => object,
    };
    Ok((key.to_owned(), object))
}

/// The keys that a key stands for: many if there is a number in braces in it, else itself.
fn keys(key: &str) -> Vec<String> {
    let counted = key.split_once('{').and_then(|(before, rest)| {
        let (count, after) = rest.split_once('}')?;
        Some((before, count.parse::<usize>().ok()?, count.len(), after))
    });
    match counted {
        Some((before, count, width, after)) => {
            (0..count).map(|number| format!("{before}{number:0width$}{after}")).collect()
        }
        None => vec![key.to_owned()],
    }
}

/// [`size`] with the whole chain of errors as one line.
fn size_argument(text: &str) -> Result<u64, String> {
    size(text).map_err(|error| format!("{error:#}"))
}

/// Reads a fault rule; the whole chain of errors is one line.
fn rule_argument(text: &str) -> Result<Rule, String> {
    text.parse().map_err(|error: anyhow::Error| format!("{error:#}"))
}

/// Reads a number of bytes, with an optional suffix for powers of 1024.
fn size(text: &str) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        Some(b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().with_context(|| format!("{text:?} is not a size"))?;
    number.checked_mul(1 << shift).with_context(|| format!("{text:?} is too large"))
}

/// Writes a file so that a reader sees all of it or nothing.
fn replace(file: &Path, text: &str) -> Result<()> {
    let fresh = file.with_added_extension("new");
    fs::write(&fresh, text).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, file).with_context(|| format!("cannot rename {} into place", fresh.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computed_objects_as_text() {
        for (spec, key, size) in [
            ("a/b.bin=123", "a/b.bin", 123),
            ("a=2K,seed=7", "a", 2048),
            ("a=700G,tiled", "a", 700 << 30),
            ("a=1T,nocrc", "a", 1 << 40),
            ("a=1M,seed=1,tiled,crc", "a", 1 << 20),
        ] {
            let (found, object) = computed(spec).unwrap();
            assert_eq!((found.as_str(), object.size()), (key, size), "{spec}");
        }
        assert_eq!(keys("a/{10}.bin"), (0..10).map(|at| format!("a/0{at}.bin")).collect::<Vec<_>>());
        assert_eq!([keys("a"), keys("{x}")], [["a"], ["{x}"]]);
        for spec in ["", "a", "=1", "a=", "a=x", "a=1,other", "a=1,seed=x", "a=99999999999T"] {
            assert!(computed(spec).is_err(), "{spec}");
        }
    }
}
