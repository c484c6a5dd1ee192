//! `compare`: hands over to `fanlog-compare`, a crate of its own because its peers are heavy.
//!
//! It is looked for upwards of the current directory and of this program, and run by cargo, which
//! builds it first. Its arguments, its output and its exit status are passed on as they are.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::Args;

use crate::console;

/// Where the crate stands in the source tree.
const MANIFEST: &str = "compare/Cargo.toml";

/// All that follows `compare`, for `fanlog-compare`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Arguments of `fanlog-compare`; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds and runs `fanlog-compare`.
pub(crate) fn run(options: &Options) -> ExitCode {
    let Some(manifest) = manifest() else {
        console::note(
            "error: compare is a crate of its own: in fanlog's source tree run \
             `cargo run --release --manifest-path compare/Cargo.toml`",
        );
        return ExitCode::FAILURE;
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--release", "--manifest-path"])
        .arg(manifest)
        .arg("--")
        .args(&options.arguments)
        .status();
    match status {
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            code.map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(error) => {
            console::note(&format!("error: cargo can't be run: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn manifest() -> Option<PathBuf> {
    let starts = [std::env::current_dir(), std::env::current_exe()];
    starts.into_iter().flatten().find_map(|start| manifest_above(&start))
}

fn manifest_above(start: &Path) -> Option<PathBuf> {
    start.ancestors().map(|dir| dir.join(MANIFEST)).find(|path| {
        std::fs::read_to_string(path).is_ok_and(|text| text.contains("name = \"fanlog-compare\""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_is_found_from_within_the_source_tree_only() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(manifest_above(&here.join("src")).is_some_and(|path| path.ends_with(MANIFEST)));
        let elsewhere = tempfile::tempdir().expect("a directory can be made");
        assert_eq!(manifest_above(elsewhere.path()), None);
    }
}
