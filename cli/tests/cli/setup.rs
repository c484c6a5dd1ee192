//! A store in a temporary directory, and the command to run on it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// Segments are prepared at every open: small ones keep the tests quick.
const SEGMENT_BYTES: &str = "1048576";

/// A directory for one store, removed at the end.
pub(crate) struct Store {
    parent: TempDir,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self { parent: tempfile::tempdir().unwrap() }
    }

    /// One in a directory of its own in `place`.
    pub(crate) fn within(place: &Path) -> Self {
        Self { parent: tempfile::tempdir_in(place).unwrap() }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.parent.path().join("store")
    }

    pub(crate) fn dir_text(&self) -> String {
        self.dir().to_str().unwrap().to_owned()
    }

    /// The arguments `words`, in which `DIR` stands for the store and `DIR2` for another directory.
    pub(crate) fn arguments(&self, words: &str) -> Vec<String> {
        let dir = self.dir_text();
        let word = |word: &str| match word {
            "DIR" => dir.clone(),
            "DIR2" => format!("{dir}2"),
            word => word.into(),
        };
        words.split(' ').map(word).collect()
    }

    /// Runs `fanlog` with the arguments `words`.
    pub(crate) fn run(&self, words: &str) -> Ended {
        self.run_with_input(words, "")
    }

    pub(crate) fn run_with_input(&self, words: &str, input: &str) -> Ended {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("fanlog"));
        command.args(self.arguments(words)).env("FANLOG_SEGMENT_BYTES", SEGMENT_BYTES);
        command.write_stdin(input);
        Ended::from(command.timeout(std::time::Duration::from_mins(2)).output().unwrap())
    }

    /// Runs it, and returns what it printed if it ended well.
    #[track_caller]
    pub(crate) fn fine(&self, words: &str) -> String {
        self.fine_with_input(words, "")
    }

    #[track_caller]
    pub(crate) fn fine_with_input(&self, words: &str, input: &str) -> String {
        let ended = self.run_with_input(words, input);
        assert_eq!(ended.status, Some(0), "fanlog {words}: {}", ended.stderr);
        assert_eq!(ended.stderr, "", "fanlog {words}");
        ended.stdout
    }

    /// The JSON objects it printed, one per line, if it ended well.
    #[track_caller]
    pub(crate) fn json(&self, words: &str) -> Vec<Value> {
        let lines = self.fine(words);
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON in every line")).collect()
    }

    /// Starts it with pipes, to be talked to.
    pub(crate) fn start(&self, words: &str, stdout: Stdio) -> Child {
        self.start_program(assert_cmd::cargo::cargo_bin!("fanlog"), &self.arguments(words), stdout)
    }

    pub(crate) fn start_program(
        &self,
        program: impl AsRef<Path>,
        arguments: &[String],
        stdout: Stdio,
    ) -> Child {
        std::process::Command::new(program.as_ref())
            .args(arguments)
            .env("FANLOG_SEGMENT_BYTES", SEGMENT_BYTES)
            .current_dir(self.parent.path())
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Content of every file of the store.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(self.dir()).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .map(|p| (p.clone(), fs::read(p).unwrap()))
            .collect()
    }

    /// Changes one byte of the only place in a segment file where `needle` stands.
    pub(crate) fn damage(&self, needle: &[u8]) -> PathBuf {
        for (path, mut bytes) in self.files() {
            let found = bytes.windows(needle.len()).position(|window| window == needle);
            if let Some(position) = found {
                bytes[position] ^= 1;
                fs::write(&path, bytes).unwrap();
                return path;
            }
        }
        panic!("the store holds no such bytes");
    }
}

impl From<std::process::Output> for Ended {
    fn from(output: std::process::Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// Asserts the exit status and that standard error is the one line for `kind`.
    #[track_caller]
    pub(crate) fn is_error(&self, status: i32, kind: &str) {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert!(self.stderr.starts_with(&format!("error: {kind}: ")), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
    }
}
