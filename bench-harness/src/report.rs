//! The report of a run: what `--json FILE` writes.
//!
//! One object: `workload`, `machine`, `results`. A result is one cell of the workload: `params` it
//! ran with, `metrics` that it reached, the `floor` measured beside it, the `ratios` between both.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

use crate::{machine::Machine, sample::Spread};

/// All that one run found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The subcommand.
    pub workload: String,
    /// Where it ran.
    pub machine: Machine,
    /// One per cell, in the order in which they are printed.
    pub results: Vec<Cell>,
}

/// One cell of a workload. Names carry their unit; the README lists them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cell {
    /// What the cell was asked to do.
    pub params: BTreeMap<String, Value>,
    /// What it reached.
    pub metrics: BTreeMap<String, Value>,
    /// What the device, or the machine, reached beside it.
    pub floor: BTreeMap<String, Value>,
    /// Metric against floor.
    pub ratios: BTreeMap<String, Value>,
}

impl Report {
    /// An empty report of `workload`.
    pub fn new(workload: &str, machine: Machine) -> Report {
        Report { workload: workload.to_owned(), machine, results: Vec::new() }
    }

    /// Writes the report to `path` as one JSON object, if there is a path.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub fn write(&self, path: Option<&Path>) -> anyhow::Result<()> {
        let Some(path) = path else { return Ok(()) };
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }
}

impl Cell {
    /// An empty cell.
    pub fn new() -> Cell {
        Cell::default()
    }

    /// Adds a parameter.
    pub fn param(&mut self, name: &str, value: impl Into<Value>) -> &mut Cell {
        self.params.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a metric.
    pub fn metric(&mut self, name: &str, value: impl Into<Value>) -> &mut Cell {
        self.metrics.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a figure of the floor.
    pub fn floor(&mut self, name: &str, value: impl Into<Value>) -> &mut Cell {
        self.floor.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a ratio.
    pub fn ratio(&mut self, name: &str, value: impl Into<Value>) -> &mut Cell {
        self.ratios.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a metric measured in several rounds: `name` (median), `name_min`, `name_max`.
    pub fn metric_spread(&mut self, name: &str, spread: Spread) -> &mut Cell {
        insert_spread(&mut self.metrics, name, spread);
        self
    }

    /// Adds a figure of the floor measured in several rounds, as [`Cell::metric_spread`] does.
    pub fn floor_spread(&mut self, name: &str, spread: Spread) -> &mut Cell {
        insert_spread(&mut self.floor, name, spread);
        self
    }

    /// Adds a ratio of paired rounds, as [`Cell::metric_spread`] does.
    pub fn ratio_spread(&mut self, name: &str, spread: Spread) -> &mut Cell {
        insert_spread(&mut self.ratios, name, spread);
        self
    }
}

fn insert_spread(map: &mut BTreeMap<String, Value>, name: &str, spread: Spread) {
    map.insert(name.to_owned(), spread.median.into());
    map.insert(format!("{name}_min"), spread.min.into());
    map.insert(format!("{name}_max"), spread.max.into());
}
