//! `fanlog torture`: a line protocol with which any crash or fault test can drive the engine.

mod keeper;
mod message;
mod publish;
mod size;
mod verify;

use std::path::Path;

use clap::Subcommand;

use crate::failure::{Failure, Status};

/// Drive the engine through crashes and faults: publish known messages, verify what is stored.
///
/// The messages can be computed from their number, and every line says what is durable, so that a
/// test needs neither the engine's library nor its files to judge it.
#[derive(Subcommand)]
pub(crate) enum Torture {
    Publish(publish::Publish),
    Verify(verify::Verify),
}

impl Torture {
    pub(crate) fn run(&self) -> Result<Status, Failure> {
        match self {
            Self::Publish(command) => command.run(),
            Self::Verify(command) => command.run(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        match self {
            Self::Publish(command) => &command.dir,
            Self::Verify(command) => &command.dir,
        }
    }
}
