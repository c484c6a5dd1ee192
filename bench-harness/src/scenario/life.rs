//! The judge's end of one engine process.

use std::{
    io::{BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context;

use super::{
    Options,
    frames::{Frame, Kind},
};
use crate::place::Place;

/// Frames that may wait between the pipe and the judge.
const FRAMES_WAITING: usize = 256;

/// A running engine process. Dropping it ends the process.
pub(crate) struct Life {
    child: Child,
    commands: Option<ChildStdin>,
    frames: Receiver<Frame>,
    reader: Option<JoinHandle<std::io::Result<()>>>,
}

/// What came next.
pub(crate) enum Next {
    Frame(Frame),
    Nothing,
    /// The process has closed its end of the pipe.
    End,
}

impl Life {
    /// Starts an engine process on the store and the files of `place`.
    pub(crate) fn start(options: &Options, place: &Place) -> anyhow::Result<Life> {
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.arg("scenario-engine");
        command.arg("--store").arg(place.join("store"));
        command.arg("--files").arg(place.join("platforms"));
        for (name, number) in [
            ("--size", options.size.to_string()),
            ("--consumers", options.consumers.to_string()),
            ("--publishers", options.publishers.to_string()),
            ("--window", options.window.to_string()),
        ] {
            command.args([name, &number]);
        }
        if options.plant_loss {
            command.args(["--plant-loss", &(options.messages / 2).to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting the engine process")?;
        let output = child.stdout.take().context("the engine process has no output")?;
        let commands = child.stdin.take();
        let (sender, frames) = mpsc::sync_channel(FRAMES_WAITING);
        let reader = std::thread::spawn(move || {
            let mut output = BufReader::with_capacity(1 << 16, output);
            while let Some(frame) = Frame::read(&mut output)? {
                if sender.send(frame).is_err() {
                    break;
                }
            }
            Ok(())
        });
        Ok(Life { child, commands, frames, reader: Some(reader) })
    }

    /// Sends a command.
    pub(crate) fn send(&mut self, frame: &Frame) -> anyhow::Result<()> {
        let commands = self.commands.as_mut().context("the engine process takes no commands")?;
        let mut bytes = Vec::with_capacity(frame.body.len() + 8);
        frame.write(&mut bytes)?;
        commands.write_all(&bytes).context("sending a command to the engine process")
    }

    /// The next frame, if one comes in time.
    pub(crate) fn next(&mut self, timeout: Duration) -> anyhow::Result<Next> {
        match self.frames.recv_timeout(timeout) {
            Ok(frame) if frame.kind == Kind::Failed => {
                anyhow::bail!("engine process: {}", String::from_utf8_lossy(&frame.body))
            }
            Ok(frame) => Ok(Next::Frame(frame)),
            Err(RecvTimeoutError::Timeout) => Ok(Next::Nothing),
            Err(RecvTimeoutError::Disconnected) => {
                if let Some(reader) = self.reader.take() {
                    let read = reader.join();
                    read.map_err(|_| anyhow::anyhow!("the reader of the pipe panicked"))??;
                }
                Ok(Next::End)
            }
        }
    }

    /// Ends the process with SIGKILL. What it wrote before is still to be read.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("killing the engine process")?;
        self.child.wait().context("waiting for the killed engine process")?;
        Ok(())
    }

    /// Waits for the process to end by itself, after its last frame.
    pub(crate) fn wait(&mut self) -> anyhow::Result<()> {
        self.commands = None;
        let status = self.child.wait().context("waiting for the engine process")?;
        anyhow::ensure!(status.success(), "the engine process ended with {status}");
        Ok(())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // Ended already in all but error paths; then this does nothing.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
