//! Probes as children: each is a process group of its own, and ended if it takes too long.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal};

use crate::{peer::walrus, probe::Figures};

/// How long a probe may take.
const WITHIN: Duration = Duration::from_mins(1);

/// Runs a probe to its end and returns what it found.
pub(crate) fn figures(store: &Path, arguments: &[String]) -> Result<Figures> {
    let child = spawn(store, arguments)?;
    let group = group(&child);
    let (sender, receiver) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        // Nobody listens any more if it took too long.
        drop(sender.send(child.wait_with_output()));
    });
    let output = receiver.recv_timeout(WITHIN);
    // Servers that it started end with it.
    end(group);
    waiter.join().map_err(|_| anyhow::anyhow!("waiting for a probe failed"))?;
    let output = output.with_context(|| format!("not done in {} s", WITHIN.as_secs()))??;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let why = text.lines().last().unwrap_or("nothing was said");
        anyhow::bail!("{}", why.trim_start_matches("error: "));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().context("the probe reported nothing")?;
    Ok(serde_json::from_str(line)?)
}

/// Runs a probe until it says that it is done, and kills it then.
pub(crate) fn killed(store: &Path, arguments: &[String]) -> Result<()> {
    let mut child = spawn(store, arguments)?;
    let output = child.stdout.take().context("the probe has no output")?;
    // A peer may print lines of its own.
    let said = BufReader::new(output).lines().map_while(Result::ok).any(|line| line == "confirmed");
    end(group(&child));
    child.wait()?;
    if said {
        return Ok(());
    }
    let mut text = String::new();
    if let Some(mut errors) = child.stderr.take() {
        errors.read_to_string(&mut text)?;
    }
    anyhow::bail!(
        "{}",
        text.lines().last().unwrap_or("nothing was said").trim_start_matches("error: ")
    )
}

fn spawn(store: &Path, arguments: &[String]) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg("probe").args(arguments).arg("--store").arg(store);
    command.env(walrus::DIRECTORY_VARIABLE, store).env("WALRUS_QUIET", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command.process_group(0).spawn()?)
}

fn group(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()).ok()?)
}

/// Kills all that is left of a group.
fn end(group: Option<Pid>) {
    if let Some(group) = group {
        // There is nobody left most of the time, which is an error that says nothing.
        rustix::process::kill_process_group(group, Signal::KILL).unwrap_or(());
    }
}
