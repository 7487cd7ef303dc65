//! `ossc-agent manifest`: the keys, the making and the checking of signed manifests. What they are: `peer::manifest`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::exit::{self, Exit};
use super::verify::{self, Access};
use crate::agent;
use crate::base::Bytes;
use crate::peer::manifest;

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Manifest {
    /// Make a pair of keys: manifest-key.pem signs and stays with who publishes the model, manifest-public.pem goes to
    /// every node
    NewKey {
        /// Where the files go
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Read every file of a complete model, compare it with OSS, and sign what its blocks are
    Create(Box<Create>),
    /// Compare the files of a model with a manifest; OSS is not asked
    Verify {
        /// The manifest
        #[arg(long, value_name = "FILE")]
        manifest: PathBuf,
        /// PEM file of the public key it must be signed for
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
        /// Directory of the model
        #[arg(long, value_name = "DIR")]
        model_dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Arguments of `manifest create`.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// PEM file of the private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Where the manifest goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Bytes of a block, as the nodes' agents have it; a power of two from 128K to 16M [default: by model size]
    #[arg(long, value_name = "SIZE")]
    block_size: Option<Bytes>,

    #[command(flatten)]
    access: Access,
}

impl Manifest {
    pub(super) fn run(self) -> Exit {
        match self {
            Self::NewKey { dir } => match manifest::make_keys(&dir) {
                Ok(()) => Exit::SUCCESS,
                Err(error) => exit::report(&agent::Error::from(error), false),
            },
            Self::Create(create) => create.run(),
            Self::Verify { manifest, public_key, model_dir, json } => {
                match agent::manifest::check(&manifest, &public_key, &model_dir) {
                    Ok(report) => verify::show(&report, json),
                    Err(error) => exit::report(&error, false),
                }
            }
        }
    }
}

impl Create {
    fn run(self) -> Exit {
        let flags = crate::config::Flags { block_size: self.block_size, ..self.access.flags() };
        let config = match verify::prepare(&flags) {
            Ok(config) => config,
            Err(exit) => return exit,
        };
        match agent::manifest::create(&config, &self.key, &self.out) {
            Ok(made) => {
                println!(
                    "{}: {} blocks of {} files, {}, signed",
                    self.out.display(),
                    made.blocks,
                    made.files,
                    Bytes(made.bytes)
                );
                Exit::SUCCESS
            }
            Err(error) => exit::report(&error, true),
        }
    }
}
