//! `ossc-agent peers`: the certificates by which nodes know each other. Files only; no agent is asked.

use std::path::PathBuf;

use clap::Subcommand;

use super::exit::{self, Exit};
use crate::agent;
use crate::peer::{Name, authority};

/// What to make.
#[derive(Debug, Subcommand)]
pub(super) enum Peers {
    /// Make a certificate authority for a cluster; its directory stays with the operator
    InitCa {
        /// Name of the cluster, as --peers-cluster says it
        #[arg(long, value_name = "NAME", default_value = "ossc")]
        cluster: Name,
        /// Directory to make
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Issue a certificate for a node: ca.pem, NODE.pem and NODE-key.pem
    Issue {
        /// Name of the node, as --peers-node says it
        #[arg(long, value_name = "NAME")]
        node: Name,
        /// Directory of the authority
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Where the files go
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Life of the certificate; agents take up a new one without a restart
        #[arg(long, value_name = "N", default_value_t = 365)]
        days: u32,
    },
}

impl Peers {
    pub(super) fn run(self) -> Exit {
        let made = match &self {
            Self::InitCa { cluster, dir } => authority::init(dir, cluster),
            Self::Issue { node, dir, out, days } => authority::issue(dir, node, *days, out),
        };
        match made {
            Ok(()) => Exit::SUCCESS,
            Err(error) => exit::report(&agent::Error::from(error), false),
        }
    }
}
