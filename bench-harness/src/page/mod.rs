//! `report`: one page of reports that runs wrote, with plots, for a browser. It needs nothing else.

mod plots;

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value};

use crate::{console, sample::short};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;\
color:#1b1f24}h1,h2{line-height:1.2}table{border-collapse:collapse;font-size:13px;margin:.5rem 0}\
th,td{border:1px solid #d0d7de;padding:.2rem .5rem;text-align:right}th:first-child,td:first-child\
{text-align:left}th{background:#f6f8fa}.wide{overflow-x:auto}figure{margin:1rem 0}figure svg\
{max-width:100%;height:auto}summary{cursor:pointer}small{color:#57606a}";

/// Options of `report`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Reports, as `--json FILE` of the other subcommands writes them
    #[arg(required = true, value_name = "FILE")]
    reports: Vec<PathBuf>,
    /// The page to write
    #[arg(long, short, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
}

/// Reads the reports and writes the page.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut reports = Vec::with_capacity(options.reports.len());
    for path in &options.reports {
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("reading {name}"))?;
        let report: Value =
            serde_json::from_str(&text).with_context(|| format!("{name} is no JSON"))?;
        let is_report = report["workload"].is_string() && report["results"].is_array();
        anyhow::ensure!(is_report, "{name} is no report: it has no `workload` and `results`");
        reports.push(report);
    }
    let page = page(&reports)?;
    fs::write(&options.out, page).with_context(|| format!("writing {}", options.out.display()))?;
    console::line(&format!("{} reports in {}", reports.len(), options.out.display()))?;
    Ok(())
}

fn page(reports: &[Value]) -> anyhow::Result<String> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>fanlog: figures</title><style>{STYLE}</style>\n<h1>fanlog: figures</h1>\n"
    );
    for report in reports {
        section(&mut page, report)?;
    }
    page.push_str("</html>\n");
    Ok(page)
}

fn section(page: &mut String, report: &Value) -> anyhow::Result<()> {
    let text = |value: &Value| escaped(value.as_str().unwrap_or_default());
    let machine = &report["machine"];
    writeln!(page, "<h2>{}</h2>", text(&report["workload"]))?;
    writeln!(
        page,
        "<p><small>{}, {} cores, {} MiB, Linux {}, {} on {}</small></p>",
        text(&machine["cpu"]),
        machine["cores"],
        machine["memory_mib"],
        text(&machine["kernel"]),
        text(&machine["file_system"]),
        text(&machine["device"])
    )?;
    for plot in plots::of(report) {
        writeln!(page, "<figure>{}</figure>", plot.svg()?)?;
    }
    page.push_str("<details open><summary>Figures</summary>\n");
    for part in ["metrics", "ratios", "floor"] {
        table(page, report, part)?;
    }
    page.push_str("</details>\n");
    Ok(())
}

/// A table of one part of all cells: a row for each name, a column for each cell.
fn table(page: &mut String, report: &Value, part: &str) -> anyhow::Result<()> {
    let cells = report["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    let maps: Vec<&Map<String, Value>> =
        cells.iter().filter_map(|cell| cell[part].as_object()).collect();
    let mut names: Vec<&String> = maps.iter().flat_map(|map| map.keys()).collect();
    names.sort();
    names.dedup();
    // A spread is shown in one line, a series in a plot.
    let is_end = |name: &str| name.ends_with("_min") || name.ends_with("_max");
    names.retain(|name| {
        !is_end(name) && maps.iter().any(|map| map.get(*name).is_some_and(is_plain))
    });
    if names.is_empty() {
        return Ok(());
    }
    write!(page, "<div class=\"wide\"><table><tr><th>{part}</th>")?;
    for cell in cells {
        write!(page, "<th>{}</th>", escaped(&params(cell, cells)))?;
    }
    page.push_str("</tr>\n");
    for name in names {
        write!(page, "<tr><td>{}</td>", escaped(name))?;
        for cell in cells {
            write!(page, "<td>{}</td>", escaped(&figure(&cell[part], name)))?;
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
    Ok(())
}

fn is_plain(value: &Value) -> bool {
    value.is_number() || value.is_boolean() || value.is_string()
}

/// The parameters in which a cell differs from others; all if there are no others.
fn params(cell: &Value, cells: &[Value]) -> String {
    let Some(own) = cell["params"].as_object() else { return String::new() };
    let differs = |name: &str| {
        let values = cells.iter().map(|cell| &cell["params"][name]);
        cells.len() == 1 || values.clone().any(|value| *value != own[name])
    };
    let shown = own.iter().filter(|(name, _)| differs(name));
    let shown = shown.map(|(name, value)| match value.as_str() {
        Some(text) => format!("{name} {text}"),
        None => format!("{name} {value}"),
    });
    shown.collect::<Vec<String>>().join(", ")
}

/// A figure with its spread, if it has one.
fn figure(part: &Value, name: &str) -> String {
    let of = |suffix: &str| part[format!("{name}{suffix}")].as_f64();
    match (&part[name], of("_min"), of("_max")) {
        (Value::Number(value), Some(min), Some(max)) => {
            let value = value.as_f64().unwrap_or_default();
            format!("{} ({}-{})", short(value), short(min), short(max))
        }
        (Value::Number(value), ..) => short(value.as_f64().unwrap_or_default()),
        (Value::String(text), ..) => text.clone(),
        (Value::Bool(value), ..) => value.to_string(),
        _ => String::new(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_has_every_figure_once_with_its_spread_and_a_plot_and_no_markup_of_others() {
        let cell = |rate: u32| {
            json!({
                "params": {"rate_per_s": rate, "backend": "<b>"},
                "metrics": {
                    "confirm_p50_us": 100.0, "confirm_p50_us_min": 90.0, "confirm_p50_us_max": 120.0,
                    "flat": true,
                },
                "floor": {"raw_4k_p50_us": 80.0},
                "ratios": {},
            })
        };
        let machine = json!({"cpu": "a <fast> one", "cores": 2});
        let results = [cell(10), cell(100)];
        let report = json!({"workload": "latency", "machine": machine, "results": results});
        let page = page(&[report]).unwrap();
        assert_eq!(page.matches("<td>confirm_p50_us</td>").count(), 1);
        assert_eq!(page.matches("<td>100 (90.0-120)</td>").count(), 2);
        assert!(page.contains("a &lt;fast&gt; one") && !page.contains("<b>"));
        assert!(page.contains("<th>rate_per_s 100</th>"), "params that differ, and no others");
        assert!(!page.contains("confirm_p50_us_min") && page.contains("<svg"));
    }
}
