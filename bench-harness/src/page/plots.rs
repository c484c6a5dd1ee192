//! Which plots a report gets, and how one is drawn.

use plotters::prelude::*;
use serde_json::Value;

use crate::sample::short;

const SIZE: (u32, u32) = (900, 340);
const COLOURS: [RGBColor; 5] = [
    RGBColor(9, 105, 218),
    RGBColor(207, 34, 46),
    RGBColor(26, 127, 55),
    RGBColor(130, 80, 223),
    RGBColor(154, 103, 0),
];

/// How a quantity runs along its axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// From 0.
    Linear,
    /// By powers of ten.
    Log,
}

/// Curves over one another.
#[derive(Debug)]
pub(super) struct Plot {
    title: String,
    x: (&'static str, Scale),
    y: (&'static str, Scale),
    curves: Vec<Curve>,
}

#[derive(Debug)]
struct Curve {
    label: String,
    points: Vec<(f64, f64)>,
}

/// The plots of a report; none for a workload that is one row of figures.
pub(super) fn of(report: &Value) -> Vec<Plot> {
    let cells = report["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut plots = match report["workload"].as_str().unwrap_or_default() {
        "publish" => publish(cells),
        "fanout" => fanout(cells),
        "latency" => latency(cells),
        "recover" => recover(cells),
        "reclaim" => reclaim(cells),
        "soak" => soak(cells),
        _ => Vec::new(),
    };
    plots.retain(|plot| plot.curves.iter().any(|curve| curve.points.len() > 1));
    plots
}

/// Points of all cells for which `takes` holds, by a parameter.
fn by_param(
    cells: &[Value],
    label: impl Into<String>,
    (x, part, y): (&str, &str, &str),
    takes: impl Fn(&Value) -> bool,
) -> Curve {
    let cells = cells.iter().filter(|cell| takes(cell));
    let point = |cell: &Value| Some((cell["params"][x].as_f64()?, cell[part][y].as_f64()?));
    let mut points: Vec<(f64, f64)> = cells.filter_map(point).collect();
    points.sort_by(|left, right| left.0.total_cmp(&right.0));
    Curve { label: label.into(), points }
}

/// Points of two lists of a cell.
fn series(cell: &Value, label: &str, x: &str, y: &str) -> Curve {
    let list = |name: &str| cell["metrics"][name].as_array().map(Vec::as_slice).unwrap_or_default();
    let points = list(x).iter().zip(list(y)).filter_map(|(x, y)| x.as_f64().zip(y.as_f64()));
    Curve { label: label.into(), points: points.collect() }
}

fn publish(cells: &[Value]) -> Vec<Plot> {
    let mut windows: Vec<u64> =
        cells.iter().filter_map(|cell| cell["params"]["window"].as_u64()).collect();
    windows.sort_unstable();
    windows.dedup();
    let curves = |part: &'static str, y: &'static str| -> Vec<Curve> {
        let of = |window: &u64| {
            let takes = |cell: &Value| cell["params"]["window"].as_u64() == Some(*window);
            by_param(cells, format!("{window} outstanding each"), ("publishers", part, y), takes)
        };
        windows.iter().map(of).collect()
    };
    vec![
        Plot {
            title: "Confirmed messages per second".into(),
            x: ("publishers", Scale::Log),
            y: ("per second", Scale::Log),
            curves: curves("metrics", "confirmed_per_s"),
        },
        Plot {
            title: "Payload against 1 MiB writes in order, each synced".into(),
            x: ("publishers", Scale::Log),
            y: ("ratio", Scale::Linear),
            curves: curves("ratios", "payload_per_sequential_synced"),
        },
    ]
}

fn fanout(cells: &[Value]) -> Vec<Plot> {
    let waiting = |cell: &Value| cell["params"]["waiting_consumers"].as_u64() != Some(0);
    let curves = |y: &'static str| {
        let place = ("queues", "metrics", y);
        vec![
            by_param(cells, "nobody consumes", place, |cell| !waiting(cell)),
            by_param(cells, "a consumer waits on each", place, waiting),
        ]
    };
    vec![
        Plot {
            title: "Throughput against bound queues".into(),
            x: ("queues", Scale::Log),
            y: ("confirmed per second", Scale::Linear),
            curves: curves("confirmed_per_s"),
        },
        Plot {
            title: "Instructions of a published message".into(),
            x: ("queues", Scale::Log),
            y: ("instructions", Scale::Linear),
            curves: curves("instructions_per_message"),
        },
    ]
}

fn latency(cells: &[Value]) -> Vec<Plot> {
    let curves = |what: &str| -> Vec<Curve> {
        let of = |quantile: &str| {
            let name = format!("{what}_{quantile}_us");
            by_param(cells, quantile, ("rate_per_s", "metrics", &name), |_| true)
        };
        ["p50", "p99", "p999", "max"].into_iter().map(of).collect()
    };
    let plot = |title: &str, what: &str| Plot {
        title: title.into(),
        x: ("messages per second", Scale::Log),
        y: ("microseconds", Scale::Log),
        curves: curves(what),
    };
    vec![
        plot("Due to confirmed, open loop", "confirm"),
        plot("Due to delivered, open loop", "publish_to_deliver"),
    ]
}

fn recover(cells: &[Value]) -> Vec<Plot> {
    let curve = |label: &str, y: &str| by_param(cells, label, ("messages", "metrics", y), |_| true);
    vec![
        Plot {
            title: "Opening after a kill, against the backlog".into(),
            x: ("messages", Scale::Log),
            y: ("ms", Scale::Log),
            curves: vec![
                curve("open", "open_ms"),
                curve("first message", "first_message_ms"),
                by_param(
                    cells,
                    "reading the whole store",
                    ("messages", "floor", "whole_store_read_ms"),
                    |_| true,
                ),
            ],
        },
        Plot {
            title: "Memory, without pages of files".into(),
            x: ("messages", Scale::Log),
            y: ("MiB", Scale::Linear),
            curves: vec![
                curve("after opening", "anonymous_mib"),
                curve("at most, while all of it is consumed", "consuming_anonymous_peak_mib"),
            ],
        },
    ]
}

fn reclaim(cells: &[Value]) -> Vec<Plot> {
    let stream = cells.iter().filter(|cell| cell["params"]["part"] == "stream");
    let plot = |cell: &Value| {
        let curve = |label: &str, y: &str| series(cell, label, "series_published_mib", y);
        Plot {
            title: "Disk against live bytes".into(),
            x: ("MiB published", Scale::Linear),
            y: ("MiB", Scale::Linear),
            curves: vec![
                curve("live", "series_live_mib"),
                curve("disk", "series_disk_mib"),
                curve("rewritten so far", "series_rewritten_mib"),
            ],
        }
    };
    stream.map(plot).collect()
}

fn soak(cells: &[Value]) -> Vec<Plot> {
    let plot = |cell: &Value, title: &str, unit: &'static str, curves: &[(&str, &str)]| Plot {
        title: title.into(),
        x: ("seconds", Scale::Linear),
        y: (unit, Scale::Linear),
        curves: curves.iter().map(|(label, y)| series(cell, label, "series_at_s", y)).collect(),
    };
    let of = |cell: &Value| {
        let disk = [("disk", "series_disk_mib"), ("unacked payload", "series_unacked_mib")];
        let confirms = [("p50", "series_confirm_p50_us"), ("p99", "series_confirm_p99_us")];
        let memory = [("memory, without pages of files", "series_anonymous_mib")];
        [
            plot(cell, "Memory", "MiB", &memory),
            plot(cell, "Disk", "MiB", &disk),
            plot(cell, "Files", "files", &[("files", "series_files")]),
            plot(cell, "Publish to confirm", "microseconds", &confirms),
        ]
    };
    cells.iter().flat_map(of).collect()
}

impl Scale {
    /// Where a figure stands along the axis.
    fn place(self, figure: f64) -> f64 {
        match self {
            Self::Linear => figure,
            Self::Log => figure.max(0.001).log10(),
        }
    }

    fn label(self, place: f64) -> String {
        match self {
            Self::Linear => short(place),
            Self::Log => short(10_f64.powf(place)),
        }
    }

    /// The part of the axis that has all of these.
    fn range(self, places: impl Iterator<Item = f64> + Clone) -> std::ops::Range<f64> {
        let low = places.clone().fold(f64::INFINITY, f64::min);
        let high = places.fold(f64::NEG_INFINITY, f64::max);
        let low = if self == Self::Linear { low.min(0.0) } else { low };
        // Something to draw in, also where all are the same.
        let air = ((high - low) * 0.06).max(0.01);
        low..high + air
    }
}

impl Plot {
    /// The plot as an SVG element.
    pub(super) fn svg(&self) -> anyhow::Result<String> {
        let mut svg = String::new();
        let failed = |error: &dyn std::fmt::Display| anyhow::anyhow!("drawing a plot: {error}");
        let (x, y) = (self.x.1, self.y.1);
        let placed: Vec<(&str, Vec<(f64, f64)>)> = self
            .curves
            .iter()
            .filter(|curve| !curve.points.is_empty())
            .map(|curve| {
                let points = curve.points.iter();
                (&*curve.label, points.map(|point| (x.place(point.0), y.place(point.1))).collect())
            })
            .collect();
        let all = placed.iter().flat_map(|(_, points)| points);
        let (xs, ys) = (all.clone().map(|point| point.0), all.map(|point| point.1));
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(70)
            .build_cartesian_2d(x.range(xs), y.range(ys))
            .map_err(|error| failed(&error))?;
        chart
            .configure_mesh()
            .x_desc(self.x.0)
            .y_desc(self.y.0)
            .x_label_formatter(&|place| x.label(*place))
            .y_label_formatter(&|place| y.label(*place))
            .max_light_lines(1)
            .bold_line_style(RGBColor(228, 232, 236))
            .light_line_style(WHITE)
            .draw()
            .map_err(|error| failed(&error))?;
        for ((label, points), colour) in placed.into_iter().zip(COLOURS.into_iter().cycle()) {
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))
                .map_err(|error| failed(&error))?
                .label(label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(208, 215, 222))
            .draw()
            .map_err(|error| failed(&error))?;
        area.present().map_err(|error| failed(&error))?;
        drop(chart);
        drop(area);
        Ok(svg)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_there_is_drawn_in_order_and_what_is_not_is_left_out() {
        let cell = |messages: u64, open_ms: f64| json!({"params": {"messages": messages}, "metrics": {"open_ms": open_ms}});
        let report = json!({"workload": "recover", "results": [cell(1000, 7.0), cell(10, 5.0)]});
        let plots = of(&report);
        assert_eq!(plots.len(), 1, "nothing is known of memory");
        assert_eq!(plots[0].curves[0].points, [(10.0, 5.0), (1000.0, 7.0)]);
        let svg = plots[0].svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("open") && !svg.contains("first message"));
    }

    #[test]
    fn a_report_of_one_cell_or_of_an_unknown_workload_has_no_plot() {
        let cell = json!({"params": {"messages": 1}, "metrics": {"open_ms": 1.0}});
        assert!(of(&json!({"workload": "recover", "results": [cell]})).is_empty());
        assert!(of(&json!({"workload": "else", "results": []})).is_empty());
    }
}
