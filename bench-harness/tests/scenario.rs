//! The scenario, small: it passes, and a withheld message makes it fail.

use std::{path::Path, process::Command};

use serde_json::Value;

/// Runs the scenario in a directory of its own: its exit status and the one result of its report.
fn scenario(arguments: &[&str]) -> (Option<i32>, Value) {
    let dir =
        tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("a writable target");
    let json = dir.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_fanlog-bench"))
        .args(["scenario", "--messages", "30000", "--paced", "500", "--paced-rate", "1000"])
        .args(arguments)
        .arg("--dir")
        .arg(dir.path())
        .arg("--json")
        .arg(&json)
        .output()
        .expect("the program starts");
    let text = std::fs::read(&json)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let mut report: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(report["workload"], "scenario");
    (output.status.code(), report["results"][0]["metrics"].take())
}

#[test]
fn nothing_is_lost_when_consumers_and_the_engine_die() {
    let (status, metrics) = scenario(&[]);
    assert_eq!(status, Some(0), "{metrics:#}");
    assert_eq!(metrics["confirmed"], 30_000);
    assert_eq!((&metrics["lost"], &metrics["corrupt"]), (&0.into(), &0.into()));
    let lives = metrics["recoveries"].as_array().unwrap();
    assert_eq!(lives.len(), 2, "the engine was killed once: {metrics:#}");
    for queue in ["rt_compute_data_query", "rt_compute_data_monitor", "rt_compute_data_link"] {
        assert!(metrics["held_by_dropped_consumer"][queue].as_u64().unwrap() > 0);
        assert_eq!(metrics["shares"][queue].as_array().unwrap().len(), 2);
    }
    for name in ["confirmed_per_s", "delivered_per_s", "written_per_payload_byte"] {
        assert!(metrics[name].as_f64().unwrap() > 0.0, "{name}");
    }
    assert!(metrics["redelivered"].as_u64().unwrap() > 0);
}

#[test]
fn a_withheld_message_is_found_and_fails_the_run() {
    let (status, metrics) = scenario(&["--plant-loss", "--consumers", "1", "--publishers", "1"]);
    assert_eq!(status, Some(1), "{metrics:#}");
    assert_eq!((&metrics["lost"], &metrics["corrupt"]), (&1.into(), &0.into()));
}
