//! Plots as SVG: lines over an axis, or a row of dots for each series. Pure, and no more than the report needs.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 420.0;
/// Room for names on the left, and for the axis below.
const LEFT: f64 = 230.0;
const BELOW: f64 = 40.0;
const ABOVE: f64 = 30.0;
const RIGHT: f64 = 20.0;
/// Told apart by most eyes (Okabe and Ito 2008), then again with dashes.
const COLOURS: [&str; 7] = ["#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A line through its points.
    Line,
    /// A dot for each point, in the series' own row.
    Rows,
}

/// Points with a name.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) mark: Mark,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Debug)]
pub(crate) struct Chart {
    title: &'static str,
    x: &'static str,
    y: &'static str,
    series: Vec<Series>,
}

impl Chart {
    pub(crate) fn new(title: &'static str, x: &'static str, y: &'static str) -> Self {
        Self { title, x, y, series: Vec::new() }
    }

    pub(crate) fn add(&mut self, series: Series) {
        self.series.push(series);
    }

    pub(crate) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let is_rows = self.series.iter().any(|series| series.mark == Mark::Rows);
        let widest = points().map(|point| point.0).fold(1.0, f64::max) * 1.03;
        let highest = if is_rows {
            self.series.len() as f64
        } else {
            points().map(|point| point.1).fold(1.0, f64::max) * 1.05
        };
        let x = |value: f64| LEFT + value.max(0.0) / widest * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BELOW - value / highest * (HEIGHT - BELOW - ABOVE);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{}</text>\n",
            self.title
        );
        let mut line = |text: String| {
            svg.push_str(&text);
            svg.push('\n');
        };
        let step = step(widest);
        for tick in (0u32..).map(|tick| f64::from(tick) * step).take_while(|tick| *tick <= widest) {
            let (at, top, bottom) = (x(tick), ABOVE, HEIGHT - BELOW);
            line(format!(
                "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>"
            ));
            line(format!(
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{tick:.1}</text>",
                bottom + 15.0
            ));
        }
        line(format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            HEIGHT - 8.0,
            self.x
        ));
        if !is_rows {
            let step = self::step(highest);
            for tick in (0u32..).map(|tick| f64::from(tick) * step).take_while(|tick| *tick <= highest) {
                let at = y(tick);
                line(format!(
                    "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>",
                    WIDTH - RIGHT
                ));
                line(format!(
                    "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick:.1} {}</text>",
                    LEFT - 6.0,
                    at + 4.0,
                    self.y
                ));
            }
        }
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let name = &series.name;
            match series.mark {
                Mark::Rows => {
                    let at = y(highest - number as f64 - 0.5);
                    line(format!(
                        "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
                        LEFT - 8.0,
                        at + 4.0
                    ));
                    for (value, _) in &series.points {
                        line(format!(
                            "<circle cx=\"{:.1}\" cy=\"{at:.1}\" r=\"4\" fill=\"{colour}\" fill-opacity=\"0.5\"/>",
                            x(*value)
                        ));
                    }
                }
                Mark::Line => {
                    let dash = if number < COLOURS.len() { "" } else { " stroke-dasharray=\"5 3\"" };
                    let key = ABOVE + 14.0 * (number as f64 + 1.0);
                    line(format!(
                        "<line x1=\"8\" y1=\"{:.1}\" x2=\"24\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
                        key - 4.0,
                        key - 4.0
                    ));
                    line(format!("<text x=\"28\" y=\"{key:.1}\" font-size=\"10\">{name}</text>"));
                    let mut path = String::new();
                    for (at, value) in thinned(&series.points) {
                        write!(path, "{:.1},{:.1} ", x(at), y(value)).ok();
                    }
                    line(format!(
                        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"{dash}/>",
                        path.trim_end()
                    ));
                }
            }
        }
        svg + "</svg>\n"
    }
}

/// Between two ticks: 1, 2 or 5 times a power of ten, for about six of them.
fn step(range: f64) -> f64 {
    let rough = range / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| times * power)
        .find(|step| *step >= rough)
        .unwrap_or(power * 10.0)
}

/// At most some two hundred of the points, the last one among them.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(200).max(1);
    let mut thin: Vec<_> = points.iter().copied().step_by(every).collect();
    thin.extend(points.last());
    thin
}
