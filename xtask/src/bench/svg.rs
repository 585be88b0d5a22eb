//! Owns the plot of comparisons: for each workload the throughput beside untraced, and the kernel's time for
//! each event. An SVG without a background, in colours that can be read on light and dark ones.

use std::fmt::Write as _;

use super::{
    compare::Comparison,
    stats::{Spread, grouped},
};

/// Pixels.
const WIDTH: f64 = 900.0;
const ROW: f64 = 22.0;
const BAR: f64 = 14.0;
const LABELS: f64 = 190.0;
const PANEL: f64 = 290.0;
const GAP: f64 = 110.0;
const HEAD: f64 = 74.0;
const FOOT: f64 = 38.0;

const STYLE: &str = "
text { font: 12px system-ui, sans-serif; fill: #59636e }
.title { font-size: 15px; font-weight: 600 }
.axis { font-size: 11px }
.grid { stroke: #8c959f; stroke-opacity: .35 }
.whisker { stroke: #59636e; stroke-width: 1.5 }
.ours { fill: #218bff }
.theirs { fill: #d4a72c }
.none { fill: #8c959f }
@media (prefers-color-scheme: dark) { text { fill: #b1bac4 } .whisker { stroke: #d1d9e0 } }
";

/// One line of the plot.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) name: String,
    /// `ours`, `theirs` or `none`.
    pub(super) class: &'static str,
    pub(super) of_untraced: Spread,
    pub(super) kernel_ns: Option<Spread>,
}

/// The lines of one workload.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) event: &'static str,
    pub(super) bars: Vec<Bar>,
}

/// What can be drawn of comparisons: those of events.
pub(super) fn panels(comparisons: &[Comparison]) -> Vec<Panel> {
    comparisons
        .iter()
        .filter_map(|comparison| {
            let load = comparison.load;
            let bars = comparison.rows.iter().zip(comparison.figures());
            let bars = bars.filter_map(|(row, figures)| {
                Some(Bar {
                    name: row.entrant.contender.shown.to_owned(),
                    class: row.entrant.class(),
                    of_untraced: figures.of_untraced?,
                    kernel_ns: figures.kernel_ns,
                })
            });
            Some(Panel {
                title: format!(
                    "{}: {} over {}, {} driver{}",
                    load.work.name(),
                    load.work.unit(),
                    load.over.name(),
                    load.drivers,
                    if load.drivers == 1 { "" } else { "s" }
                ),
                event: load.work.event()?,
                bars: bars.collect(),
            })
        })
        .collect()
}

/// The whole plot.
pub(super) fn draw(panels: &[Panel]) -> String {
    let mut body = String::new();
    let mut top = 0.0;
    for panel in panels {
        top += draw_panel(&mut body, panel, top);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{top}\" \
         viewBox=\"0 0 {WIDTH} {top}\" role=\"img\">\n\
         <title>What tracing TCP costs</title>\n<style>{STYLE}</style>\n{body}</svg>\n"
    )
}

/// Draws one workload from `top` on, and returns its height.
fn draw_panel(out: &mut String, panel: &Panel, top: f64) -> f64 {
    let height = HEAD + rows(panel.bars.len()) + FOOT;
    let (first, bottom) = (top + HEAD, top + height - FOOT);
    let (left, right) = (LABELS, LABELS + PANEL + GAP);
    put(out, 0.0, top + 20.0, "title", "start", &panel.title);
    put(
        out,
        left,
        top + 48.0,
        "",
        "start",
        "throughput, of untraced (1 = as fast)",
    );
    let per_event = format!("kernel ns per {} (logarithmic)", panel.event);
    put(out, right, top + 48.0, "", "start", &per_event);
    let most = panel.bars.iter().map(|bar| bar.of_untraced.max);
    let share = Axis::linear(left, most.fold(1.0, f64::max));
    let times = || panel.bars.iter().filter_map(|bar| bar.kernel_ns);
    let time = Axis::logarithmic(
        right,
        times().map(|ns| ns.min).fold(100.0, f64::min),
        times().map(|ns| ns.max).fold(1_000.0, f64::max),
    );
    for axis in [&share, &time] {
        for (value, label) in axis.ticks() {
            let x = axis.place(value);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\"/>",
                first - 4.0
            );
            put(out, x, first - 8.0, "axis", "middle", &label);
        }
    }
    for (index, bar) in panel.bars.iter().enumerate() {
        let y = first + rows(index);
        put(out, left - 8.0, y + 15.0, "", "end", &bar.name);
        let value = format!("{:.3}", bar.of_untraced.median);
        draw_bar(out, &share, y, bar.class, bar.of_untraced, &value);
        if let Some(ns) = bar.kernel_ns {
            let value = grouped(&format!("{:.0}", ns.median));
            draw_bar(out, &time, y, bar.class, ns, &value);
        }
    }
    put(
        out,
        left,
        bottom + 18.0,
        "axis",
        "start",
        "bars: medians of the rounds; lines: smallest to largest; blue: tcptrace, yellow: its peers",
    );
    height
}

/// A bar to the median, a line from the smallest to the largest, and the median in digits behind both.
fn draw_bar(out: &mut String, axis: &Axis, y: f64, class: &str, spread: Spread, value: &str) {
    let (begin, end) = (axis.left, axis.place(spread.median));
    let (min, max) = (axis.place(spread.min), axis.place(spread.max));
    let middle = y + ROW / 2.0;
    let _ = writeln!(
        out,
        "<rect class=\"{class}\" x=\"{begin:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR}\"/>\n\
         <line class=\"whisker\" x1=\"{min:.1}\" x2=\"{max:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>",
        middle - BAR / 2.0,
        (end - begin).max(1.0),
    );
    put(out, max.max(end) + 6.0, y + 15.0, "", "start", value);
}

/// A horizontal axis.
struct Axis {
    left: f64,
    /// What lies at its left end; in a logarithmic one not 0.
    from: f64,
    to: f64,
    is_logarithmic: bool,
}

impl Axis {
    fn linear(left: f64, to: f64) -> Self {
        Self {
            left,
            from: 0.0,
            to,
            is_logarithmic: false,
        }
    }

    /// Whole powers of ten at both ends.
    fn logarithmic(left: f64, min: f64, max: f64) -> Self {
        Self {
            left,
            from: 10_f64.powf(min.max(1.0).log10().floor()),
            to: 10_f64.powf(max.log10().ceil()),
            is_logarithmic: true,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let share = if self.is_logarithmic {
            (value.max(self.from) / self.from).log10() / (self.to / self.from).log10()
        } else {
            value / self.to
        };
        self.left + share * PANEL
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        if !self.is_logarithmic {
            return [0.0, 0.25, 0.5, 0.75, 1.0]
                .map(|value| (value, value.to_string()))
                .to_vec();
        }
        let mut ticks = Vec::new();
        let mut value = self.from;
        while value <= self.to * 1.001 {
            ticks.push((value, grouped(&format!("{value:.0}"))));
            value *= 10.0;
        }
        ticks
    }
}

fn rows(count: usize) -> f64 {
    ROW * u32::try_from(count).map_or(0.0, f64::from)
}

fn put(out: &mut String, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel() -> Panel {
        let spread = |median| Spread {
            median,
            min: median * 0.9,
            max: median * 1.1,
        };
        Panel {
            title: "reset <1 & more>".to_owned(),
            event: "transition",
            bars: vec![
                Bar {
                    name: "untraced".to_owned(),
                    class: "none",
                    of_untraced: spread(1.0),
                    kernel_ns: None,
                },
                Bar {
                    name: "tcpstates".to_owned(),
                    class: "theirs",
                    of_untraced: spread(0.3),
                    kernel_ns: Some(spread(11_215.0)),
                },
            ],
        }
    }

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let axis = Axis::linear(100.0, 1.0);
        assert!((axis.place(0.5) - (100.0 + PANEL / 2.0)).abs() < 1e-9);
        let axis = Axis::logarithmic(0.0, 72.0, 11_215.0);
        assert!((axis.from - 10.0).abs() < 1e-6 && (axis.to - 100_000.0).abs() < 1e-6);
        assert!((axis.place(1_000.0) - PANEL / 2.0).abs() < 1e-6);
        assert_eq!(axis.ticks().len(), 5);
    }

    #[test]
    fn every_contender_is_in_the_plot_with_its_figures() {
        let svg = draw(&[panel(), panel()]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("reset &lt;1 &amp; more&gt;"));
        assert_eq!(svg.matches(">11,215<").count(), 2);
        // Two bars in the first column, one in the second, each time.
        assert_eq!(svg.matches("<rect").count(), 6);
    }
}
