//! The way to OSS: name, connection, clock, permissions, the route of each source address, and how fast bytes
//! come by each.

use std::net::SocketAddr;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::report::Check;
use super::route;
use crate::base::{ByteRange, Bytes, Nic, Object, chain};
use crate::config::Config;
use crate::oss::{Client, Error};

/// OSS refuses signatures of clocks more than this off (`RequestTimeTooSkewed`, 15 minutes).
const REFUSED_SKEW_SECONDS: i64 = 15 * 60;
/// From here on it is worth a word: log times disagree, and the rest may follow.
const NOTED_SKEW_SECONDS: i64 = 60;
/// Bytes of one request of the measurement: the size of a large block.
const REQUEST_BYTES: u64 = 8 << 20;
/// Bytes read to see whether reading is allowed.
const SAMPLE_BYTES: u64 = 4096;
/// Longest wait for one request beyond the end of a measurement.
const PATIENCE: Duration = Duration::from_secs(10);

/// The checks, and what is listed.
pub(super) async fn checks(
    config: &Config,
    client: &Client,
    throughput: Duration,
) -> (Option<Vec<Object>>, Vec<Check>) {
    let mut checks = Vec::new();
    let addresses = match client.addresses().await {
        Ok(addresses) => addresses,
        Err(error) => {
            let advice = "check the endpoint and DNS; inside a VPC use the -internal one";
            return (None, vec![Check::fail("endpoint", chain(&error), advice)]);
        }
    };
    checks.extend(config.fetch.sources.iter().map(|source| route::check(source, &addresses)));
    match client.reach().await {
        Ok(reach) => {
            checks.push(endpoint(&config.oss.endpoint, &addresses, reach.took));
            checks.push(clock(reach.ahead_seconds));
        }
        Err(error) => {
            let advice = "check the endpoint, the sources, the firewall and the proxy";
            checks.push(Check::fail("endpoint", chain(&error), advice));
            return (None, checks);
        }
    }
    let objects = match list(client).await {
        Ok((objects, check)) => {
            checks.push(check);
            objects
        }
        Err(check) => {
            checks.push(check);
            return (None, checks);
        }
    };
    let sample = objects.iter().max_by_key(|object| object.size).filter(|object| object.size > 0).cloned();
    if let Some(sample) = sample {
        let read = sample_read(client, &sample).await;
        let may_read = read.verdict == super::Verdict::Ok;
        checks.push(read);
        if may_read && !throughput.is_zero() {
            checks.extend(rates(config, client, &sample, &objects, throughput));
        }
    }
    (Some(objects), checks)
}

fn endpoint(name: &str, addresses: &[SocketAddr], took: Duration) -> Check {
    let shown: Vec<String> = addresses.iter().take(4).map(ToString::to_string).collect();
    let seen = format!("{name} is {}, answered in {} ms", shown.join(", "), took.as_millis());
    Check::ok("endpoint", seen)
}

fn clock(ahead_seconds: Option<i64>) -> Check {
    let Some(ahead) = ahead_seconds else {
        return Check::warn("clock", "the endpoint told no time", "is there a proxy in between?");
    };
    let seen = match ahead {
        0 => "the same as OSS".to_owned(),
        1.. => format!("{ahead} s behind OSS"),
        _ => format!("{} s ahead of OSS", ahead.unsigned_abs()),
    };
    let advice = "set the clock (chrony or systemd-timesyncd)";
    match ahead.saturating_abs() {
        off if off > REFUSED_SKEW_SECONDS => Check::fail("clock", seen, advice),
        off if off > NOTED_SKEW_SECONDS => Check::warn("clock", seen, advice),
        _ => Check::ok("clock", seen),
    }
}

async fn list(client: &Client) -> Result<(Vec<Object>, Check), Check> {
    let began = Instant::now();
    match client.list().await {
        Ok(objects) => {
            let bytes = Bytes(objects.iter().map(|object| object.size).sum());
            let ms = began.elapsed().as_millis();
            let seen = format!("{} objects, {bytes}, in {ms} ms", objects.len());
            Ok((objects, Check::ok("list", seen)))
        }
        Err(error) => Err(Check::fail("list", chain(&error), advice(&error, "oss:ListObjects"))),
    }
}

async fn sample_read(client: &Client, object: &Object) -> Check {
    let mut connection = client.connection(None);
    let range = ByteRange::new(0, object.size.min(SAMPLE_BYTES));
    let read = async {
        let mut body = connection.get(object, range).await?;
        while body.next(usize::MAX).await?.is_some() {}
        Ok::<(), Error>(())
    };
    match read.await {
        Ok(()) => Check::ok("read", format!("{} can be read", object.key)),
        Err(error) => Check::fail("read", chain(&error), advice(&error, "oss:GetObject")),
    }
}

fn advice(error: &Error, permission: &str) -> String {
    match error.service().map(|service| service.status) {
        Some(403) => format!("check the keys, and that their policy grants {permission}"),
        Some(404) => "check bucket and prefix of OSS_PATH".to_owned(),
        _ => "the message above names the cause".to_owned(),
    }
}

/// One measurement by each source, or one by the default route, one after another so that each has OSS to
/// itself, and what they mean for the model.
fn rates(
    config: &Config,
    client: &Client,
    sample: &Object,
    objects: &[Object],
    time: Duration,
) -> Vec<Check> {
    let sources: Vec<Option<&Nic>> = match config.fetch.sources.as_slice() {
        [] => vec![None],
        sources => sources.iter().map(Some).collect(),
    };
    let (threads, each) = (config.fetch.threads.get(), config.fetch.connections_per_thread.get());
    let connections = threads.saturating_mul(each);
    let mut checks = Vec::new();
    let mut sum = 0;
    for source in sources {
        let name = source.map_or("throughput".to_owned(), |source| format!("throughput {source}"));
        match rate(client, sample, source, (threads, each), time) {
            Ok(rate) => {
                sum += rate;
                let seen = format!("{}/s with {connections} connections", Bytes(rate));
                checks.push(Check::ok(name, seen));
            }
            Err(error) => checks.push(Check::fail(name, chain(&error), "check this source's route and NIC")),
        }
    }
    let model: u64 = objects.iter().map(|object| object.size).sum();
    if let Some(seconds) = model.checked_div(sum) {
        let seen = format!("{} in about {seconds} s at {}/s", Bytes(model), Bytes(sum));
        checks.push(Check::ok("time to load", seen));
    }
    checks
}

/// Bytes a second that come from `source` to as many threads and connections as a load would have; an error
/// only if none come. Blocks: nothing else is done meanwhile.
fn rate(
    client: &Client,
    sample: &Object,
    source: Option<&Nic>,
    (threads, each): (u32, u32),
    time: Duration,
) -> Result<u64, Error> {
    let began = Instant::now();
    let until = began + time;
    let work = |first| move || read_by_thread(client, sample, source, first..first + each, until);
    let ended: Vec<(u64, Option<Error>)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|index| scope.spawn(work(index * each))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let bytes: u64 = ended.iter().map(|(bytes, _)| bytes).sum();
    match ended.into_iter().find_map(|(_, error)| error) {
        Some(error) if bytes == 0 => Err(error),
        _ => Ok(per_second(bytes, began.elapsed().min(time))),
    }
}

/// What one thread got over its connections, which are numbered, and why one of them ended early.
fn read_by_thread(
    client: &Client,
    sample: &Object,
    source: Option<&Nic>,
    connections: Range<u32>,
    until: Instant,
) -> (u64, Option<Error>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start a thread of the measurement");
            return (0, None);
        }
    };
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for index in connections {
            let (client, object, source) = (client.clone(), sample.clone(), source.cloned());
            tasks.spawn(
                async move { read_until(&client, &object, source.as_ref(), index.into(), until).await },
            );
        }
        let (mut bytes, mut failure) = (0_u64, None);
        while let Some(ended) = tasks.join_next().await {
            if let Ok((read, error)) = ended {
                bytes = bytes.saturating_add(read);
                failure = failure.or(error);
            }
        }
        (bytes, failure)
    })
}

/// Reads the object over and over, from a place of its own on. What it got, and why it ended early.
async fn read_until(
    client: &Client,
    object: &Object,
    source: Option<&Nic>,
    index: u64,
    until: Instant,
) -> (u64, Option<Error>) {
    let mut connection = client.connection(source.cloned());
    let places = object.size.div_ceil(REQUEST_BYTES).max(1);
    let mut bytes = 0_u64;
    let read = async {
        let mut place = index;
        loop {
            let start = place % places * REQUEST_BYTES;
            let range = ByteRange::new(start, (start + REQUEST_BYTES).min(object.size));
            let mut body = connection.get(object, range).await?;
            while let Some(piece) = body.next(usize::MAX).await? {
                if Instant::now() >= until {
                    return Ok(());
                }
                bytes = bytes.saturating_add(piece.len() as u64);
            }
            place = place.wrapping_add(1);
        }
    };
    let patience = until.saturating_duration_since(Instant::now()) + PATIENCE;
    let error = tokio::time::timeout(patience, read).await.ok().and_then(Result::err);
    (bytes, error)
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let nanos = time.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_clock_is_judged_by_what_oss_refuses() {
        for (ahead, verdict, words) in [
            (Some(0), Verdict::Ok, "same"),
            (Some(59), Verdict::Ok, "behind"),
            (Some(-61), Verdict::Warn, "ahead"),
            (Some(901), Verdict::Fail, "901 s behind"),
            (Some(i64::MIN), Verdict::Fail, "ahead"),
            (None, Verdict::Warn, "no time"),
        ] {
            let check = clock(ahead);
            assert_eq!(check.verdict, verdict, "{ahead:?}");
            assert!(check.seen.contains(words), "{}", check.seen);
        }
    }

    #[test]
    fn rates_are_bytes_a_second() {
        assert_eq!(per_second(3_000, Duration::from_secs(2)), 1_500);
        assert_eq!(per_second(u64::MAX, Duration::ZERO), u64::MAX);
    }
}
