//! A machine with several NICs, and an OSS server behind all of them: pairs of veth between two network namespaces,
//! each link with a rate of its own, and the source address routing that a cloud's machine with several NICs has.
//!
//! Driven by the tests of NICs. The thread that makes it lives on in the client's namespace, with the children it
//! starts; a thread of its own is in the server's. Neither namespace has a name: the kernel takes them down, with
//! the links, when the last process in them has ended. The server has one address, which is reached over any link.

use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

/// The server's address, on its loopback.
pub const SERVER: &str = "10.77.0.1";

type Job = Box<dyn FnOnce() + Send>;

/// The links and the server's thread.
#[derive(Debug)]
pub struct Links {
    server: Option<(Sender<Job>, JoinHandle<()>)>,
    count: usize,
}

impl Links {
    /// Moves the calling thread into a namespace with one link for each rate, in Mbit/s.
    pub fn new(rates: &[u32]) -> anyhow::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace for the client (needs root)")?;
        let (jobs, todo) = channel::<Job>();
        let thread = std::thread::spawn(move || todo.into_iter().for_each(|job| job()));
        let links = Self { server: Some((jobs, thread)), count: rates.len() };
        let server = links.on_server(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("a network namespace for the server")?;
            run("ip link set lo up")?;
            run(&format!("ip addr add {SERVER}/32 dev lo"))?;
            anyhow::Ok(PathBuf::from(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid())))
        })??;
        run("ip link set lo up")?;
        for (link, rate) in rates.iter().enumerate() {
            let (nic, own) = (nic(link), address(link));
            run(&format!("ip link add name {nic} type veth peer name s{link} netns {}", server.display()))?;
            run(&format!("ip addr add {own}/24 dev {nic}"))?;
            run(&format!("ip link set {nic} up"))?;
            let rate = *rate;
            links.on_server(move || {
                run(&format!("ip addr add 10.77.{}.2/24 dev s{link}", link + 1))?;
                run(&format!("ip link set s{link} up"))?;
                set_rate(link, rate)
            })??;
            // What leaves from this NIC's address goes through it, whatever the routes of the others say.
            let (gateway, table) = (format!("10.77.{}.2", link + 1), 101 + link);
            run(&format!("ip route add default via {gateway} dev {nic} table {table}"))?;
            run(&format!("ip rule add from {own} table {table}"))?;
            // For sockets bound to the NIC itself, which have no address yet when their route is looked for.
            run(&format!("ip route add {SERVER}/32 via {gateway} dev {nic} metric {table}"))?;
        }
        Ok(links)
    }

    /// Runs something in the server's namespace.
    pub fn on_server<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (jobs, _) = self.server.as_ref().context("the server's thread has ended")?;
        let (tell, told) = channel();
        let job = move || {
            // Nobody listens if the test has failed meanwhile.
            tell.send(work()).ok();
        };
        jobs.send(Box::new(job)).ok().context("the server's thread has ended")?;
        told.recv().context("the server's thread panicked")
    }

    /// The addresses of all NICs, as `HTTP_SOURCE_IP` takes them.
    #[must_use]
    pub fn addresses(&self) -> String {
        (0..self.count).map(address).collect::<Vec<_>>().join(",")
    }

    /// The names of all NICs, as `--source` takes them.
    #[must_use]
    pub fn names(&self) -> String {
        (0..self.count).map(nic).collect::<Vec<_>>().join(",")
    }

    /// Gives a link another rate, in Mbit/s.
    pub fn set_rate(&self, link: usize, rate: u32) -> anyhow::Result<()> {
        self.on_server(move || set_rate(link, rate))?
    }

    /// Packets from a NIC's address leave by the first NIC from now on, as they do where nobody added a rule for it.
    pub fn forget_rule(&self, link: usize) -> anyhow::Result<()> {
        run(&format!("ip rule del from {}", address(link)))
    }

    /// From now on nothing comes back over a link, and nobody is told.
    pub fn kill(&self, link: usize) -> anyhow::Result<()> {
        self.on_server(move || run(&format!("ip route add blackhole {}/32", address(link))))?
    }

    /// Undoes [`Self::kill`].
    pub fn revive(&self, link: usize) -> anyhow::Result<()> {
        self.on_server(move || run(&format!("ip route del blackhole {}/32", address(link))))?
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Some((jobs, thread)) = self.server.take() {
            drop(jobs);
            // Its panic has failed the test already.
            thread.join().ok();
        }
    }
}

/// The address of a client's NIC.
#[must_use]
pub fn address(link: usize) -> String {
    format!("10.77.{}.1", link + 1)
}

/// The name of a client's NIC.
#[must_use]
pub fn nic(link: usize) -> String {
    format!("nic{link}")
}

fn set_rate(link: usize, rate: u32) -> anyhow::Result<()> {
    // A burst of at least a tick's worth of bytes at any rate of the tests (tc-tbf(8)).
    run(&format!("tc qdisc replace dev s{link} root tbf rate {rate}mbit burst 256kb latency 50ms"))
}

fn run(line: &str) -> anyhow::Result<()> {
    let mut words = line.split(' ');
    let program = words.next().context("no program")?;
    let output = Command::new(program).args(words).output().with_context(|| format!("run `{line}`"))?;
    ensure!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
