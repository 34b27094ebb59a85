//! `cargo xtask roofline FILE`: a result file as a picture.
//!
//! A point is a row of a bench: operations for each byte it must move, and operations a second. The
//! line is what the machine can do at most. Machines change their speed within minutes, so a point
//! stands where its share of the limit puts it that was measured in its own run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::Value;

const SIZE: (u32, u32) = (960, 600);

/// Benches in it, each with the member that names the type it streams, and how it is drawn.
const BENCHES: [(&str, &str, Shape); 3] =
    [("gemm", "b", Shape::Dot), ("gemv", "b", Shape::Triangle), ("attention", "kv", Shape::Cross)];

/// Colours of types by their bits.
const COLORS: [(u32, RGBColor); 4] = [
    (32, RGBColor(40, 40, 40)),
    (16, RGBColor(0, 90, 200)),
    (8, RGBColor(220, 120, 0)),
    (4, RGBColor(200, 0, 60)),
];

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Dot,
    Triangle,
    Cross,
}

struct Point {
    /// Operations a byte.
    intensity: f64,
    /// Of the limit at that intensity.
    share: f64,
    bits: u32,
    shape: Shape,
}

struct Roof {
    flops: f64,
    bytes: f64,
}

impl Roof {
    fn at(&self, intensity: f64) -> f64 {
        self.flops.min(intensity * self.bytes)
    }
}

/// Draws the file beside it, or where `to` says.
pub fn draw(file: &Path, to: Option<PathBuf>) -> Result<ExitCode> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let results: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))?;
    let to = to.unwrap_or_else(|| file.with_extension("svg"));
    let svg = picture(&results).with_context(|| format!("drawing {}", file.display()))?;
    fs::write(&to, svg).with_context(|| format!("cannot write {}", to.display()))?;
    println!("{}", to.display());
    Ok(ExitCode::SUCCESS)
}

fn picture(results: &Value) -> Result<String> {
    let limits = results["gemm"]["limits"].as_array().context("it has no results of `gemm`")?;
    let most = limits.last().context("`gemm` has no limits")?;
    let number = |json: &Value, name: &str| {
        json[name].as_f64().with_context(|| format!("there is no `{name}` in {json}"))
    };
    let roof = Roof { flops: number(most, "flops")?, bytes: number(most, "bytes_per_s")? };
    let mut points = Vec::new();
    for (bench, kind, shape) in BENCHES {
        for row in results[bench]["rows"].as_array().into_iter().flatten() {
            // Of the rows of `gemm` those of all threads at the best level.
            let other = row["threads"].is_u64() && row["threads"] != most["threads"]
                || row["level"].is_string() && row["level"] != "best";
            if !other {
                points.push(Point {
                    intensity: number(row, "operations")? / number(row, "bytes")?,
                    share: number(row, "share_of_limit")?,
                    bits: bits(row[kind].as_str().unwrap_or_default()),
                    shape,
                });
            }
        }
    }
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let title = format!(
            "{}, {} threads: {:.0} GFLOP/s, {:.1} GB/s",
            results["gemm"]["caps"].as_str().unwrap_or("cpu"),
            most["threads"],
            roof.flops / 1e9,
            roof.bytes / 1e9
        );
        plot(&area, &title, &roof, &points).map_err(|e| anyhow!("{e}"))?;
    }
    Ok(svg)
}

/// How many bits an element of a type has, of those in [`COLORS`].
fn bits(kind: &str) -> u32 {
    match kind {
        "bf16" | "f16" => 16,
        "nvfp4" | "mxfp4" => 4,
        _ if kind.contains("f8") || kind.contains("fp8") => 8,
        _ => 32,
    }
}

/// What stands for a row of a bench.
fn marker<'a, C: Clone + 'static>(
    shape: Shape,
    at: C,
    color: RGBColor,
) -> DynElement<'static, SVGBackend<'a>, C> {
    match shape {
        Shape::Dot => Circle::new(at, 4, color.filled()).into_dyn(),
        Shape::Triangle => TriangleMarker::new(at, 5, color.filled()).into_dyn(),
        Shape::Cross => Cross::new(at, 4, color.stroke_width(2)).into_dyn(),
    }
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn plot(
    area: &DrawingArea<SVGBackend, Shift>,
    title: &str,
    roof: &Roof,
    points: &[Point],
) -> Drawn {
    let far = points.iter().map(|p| p.intensity);
    let right = far.clone().fold(1.0, f64::max) * 2.0;
    let left = far.fold(1.0, f64::min) / 2.0;
    let low =
        points.iter().map(|p| p.share * roof.at(p.intensity)).fold(roof.flops, f64::min) / 2.0;
    let giga = |flops: f64| flops / 1e9;
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(
            (left..right).log_scale(),
            (giga(low)..giga(roof.flops) * 1.5).log_scale(),
        )?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("operations a byte").y_desc("GFLOP/s").light_line_style(WHITE).draw()?;
    let ridge = roof.flops / roof.bytes;
    let line = [left, ridge, right].map(|x| (x, giga(roof.at(x))));
    chart.draw_series(LineSeries::new(line, BLACK.stroke_width(2)))?;
    for (bits, color) in COLORS {
        for (name, _, shape) in BENCHES {
            let mut series =
                points.iter().filter(|p| p.bits == bits && p.shape == shape).peekable();
            if series.peek().is_none() {
                continue;
            }
            let drawn = chart.draw_series(series.map(|p| {
                let at = (p.intensity, giga(p.share * roof.at(p.intensity)));
                marker(shape, at, color)
            }))?;
            drawn
                .label(format!("{name}, {bits} bits"))
                .legend(move |at| marker(shape, (at.0 + 10, at.1), color));
        }
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::LowerRight).border_style(BLACK).background_style(WHITE);
    labels.draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_of_all_threads_at_the_best_level_are_points_under_the_roof() {
        let row = |threads: u64, level: &str| {
            json!({
                "b": "nvfp4", "threads": threads, "level": level, "operations": 1e9,
                "bytes": 1e7, "share_of_limit": 0.5,
            })
        };
        let results = json!({"gemm": {
            "caps": "cpu × 2",
            "limits": [
                {"threads": 1, "flops": 1e11, "bytes_per_s": 1e10},
                {"threads": 2, "flops": 2e11, "bytes_per_s": 2e10},
            ],
            "rows": [row(1, "best"), row(2, "best"), row(2, "portable")],
        }});
        let svg = picture(&results).unwrap();
        assert!(svg.contains("gemm, 4 bits") && !svg.contains("gemv"), "{svg}");
        // One point, and the one in the legend.
        assert_eq!(svg.matches("<circle").count(), 2, "{svg}");
        assert!(svg.contains("200 GFLOP/s, 20.0 GB/s"), "{svg}");
        assert!(picture(&json!({})).unwrap_err().to_string().contains("gemm"));
    }
}
