//! Curves as inline SVG.
//!
//! The SVG stretches with the page while its labels are HTML placed by percentages, so that text and
//! line widths stay the same from a phone to a desktop.

use super::data::{Chart, Series};
use super::html::escape;
use super::metric::significant;
use super::scale::Scale;

/// The side of the SVG's square coordinate system.
const SIDE: f64 = 1000.0;
/// Lines with fewer points are drawn as they are.
const MIN_POINTS_TO_SMOOTH: usize = 24;
/// The standard deviation of the smoothing, as a share of the number of points.
const SMOOTHING_SHARE: f64 = 1.0 / 40.0;
/// Longer lines are drawn by this many bins: more than a screen resolves only makes the page heavy.
const MAX_BINS: usize = 600;
/// The plot's height in CSS pixels (`.plot` in `page.css`), and that of a line's label.
const PLOT_HEIGHT: f64 = 240.0;
const LABEL_HEIGHT: f64 = 34.0;

/// A line ready to be drawn, in the order of `Chart::series`.
struct Line<'a> {
    method: &'a str,
    colour: usize,
    raw: Vec<(f64, f64)>,
    smooth: Vec<(f64, f64)>,
}

/// The chart as a `<figure>`; `colour_of` gives a method's place in the palette.
pub(super) fn chart_html(chart: &Chart, colour_of: impl Fn(&str) -> usize) -> String {
    let lines: Vec<Line> = chart.series.iter().map(|series| prepare(series, chart.log_y, &colour_of)).collect();
    let points = || lines.iter().flat_map(|line| line.raw.iter().copied());
    let xs = || points().map(|(x, _)| x);
    // A line that starts at step 1 or 10 of many still gets an axis that starts at 0.
    let nearly_zero = 0.05 * xs().fold(0.0, f64::max);
    let origin = xs().any(|x| x > 0.0 && x < nearly_zero).then_some(0.0);
    let x_scale = Scale::over(xs().chain(origin), false, false);
    let y_scale = Scale::over(points().map(|(_, y)| y), chart.log_y, true);
    let ((x_low, x_high), (y_low, y_high)) = (x_scale.ends(), y_scale.ends());
    let log = if chart.log_y { " (log)" } else { "" };
    format!(
        "<figure class=\"chart\">\n<figcaption><h3>{title}</h3>\
         <p class=\"readout\"><span>{y_label}{log}</span></p></figcaption>\n\
         <div class=\"plot\" data-x=\"{x_low} {x_high}\" data-y=\"{y_low} {y_high}\" data-log=\"{log_y}\" \
         data-x-label=\"{x_label}\" data-y-label=\"{y_label}{log}\">\n{y_ticks}\n{svg}\n{ends}\n{x_ticks}\n</div>\n\
         <p class=\"x-label\">{x_label}</p>\n</figure>\n",
        title = escape(&chart.title),
        y_label = escape(&chart.y_label),
        x_label = escape(&chart.x_label),
        log_y = u8::from(chart.log_y),
        y_ticks = tick_labels("y-ticks", "bottom", &y_scale),
        x_ticks = tick_labels("x-ticks", "left", &x_scale),
        svg = svg(chart, &lines, &x_scale, &y_scale),
        ends = end_labels(&lines, &y_scale),
    )
}

fn prepare<'a>(series: &'a Series, log_y: bool, colour_of: impl Fn(&str) -> usize) -> Line<'a> {
    let drawable = |&&(x, y): &&(f64, f64)| x.is_finite() && y.is_finite() && (!log_y || y > 0.0);
    let mut points: Vec<(f64, f64)> = series.points.iter().filter(drawable).copied().collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let smooth = smoothed(&points, log_y);
    Line { method: &series.method, colour: colour_of(&series.method), raw: extremes(&points), smooth: means(&smooth) }
}

/// A straight line fitted around each point under a Gaussian window, in the logarithm on a logarithmic
/// axis. Unlike a running mean it does not lag, and at the ends it is not dragged inwards.
fn smoothed(points: &[(f64, f64)], log_y: bool) -> Vec<(f64, f64)> {
    if points.len() < MIN_POINTS_TO_SMOOTH {
        return points.to_vec();
    }
    let sigma = (points.len() as f64 * SMOOTHING_SHARE).max(1.0);
    let reach = (3.0 * sigma) as usize;
    let value = |index: usize| {
        if log_y { points[index].1.ln() } else { points[index].1 }
    };
    (0..points.len())
        .map(|centre| {
            // Sums of w, w·x, w·x², w·y and w·x·y, with x counted from the centre.
            let mut sums = [0.0; 5];
            for index in centre.saturating_sub(reach)..=(centre + reach).min(points.len() - 1) {
                let x = index as f64 - centre as f64;
                let (y, weight) = (value(index), (-0.5 * (x / sigma).powi(2)).exp());
                let terms = [weight, weight * x, weight * x * x, weight * y, weight * x * y];
                sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
            }
            let [w, wx, wxx, wy, wxy] = sums;
            let fitted = (wxx * wy - wx * wxy) / (w * wxx - wx * wx);
            (points[centre].0, if log_y { fitted.exp() } else { fitted })
        })
        .collect()
}

/// The lowest and the highest point of each bin, in their order.
fn extremes(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= 2 * MAX_BINS {
        return points.to_vec();
    }
    let pick = |bin: &[(f64, f64)]| {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (low, high) = (bin.iter().min_by(by_value).copied(), bin.iter().max_by(by_value).copied());
        let mut pair: Vec<(f64, f64)> = low.into_iter().chain(high).collect();
        pair.sort_by(|a, b| a.0.total_cmp(&b.0));
        pair
    };
    points.chunks(points.len().div_ceil(MAX_BINS)).flat_map(pick).collect()
}

/// The mean of each bin, between the first and the last point themselves.
fn means(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return Vec::new();
    };
    if points.len() <= MAX_BINS {
        return points.to_vec();
    }
    let mean = |bin: &[(f64, f64)]| {
        let count = bin.len() as f64;
        (bin.iter().map(|p| p.0).sum::<f64>() / count, bin.iter().map(|p| p.1).sum::<f64>() / count)
    };
    let inner = points.chunks(points.len().div_ceil(MAX_BINS)).map(mean);
    [*first].into_iter().chain(inner).chain([*last]).collect()
}

fn svg(chart: &Chart, lines: &[Line], x_scale: &Scale, y_scale: &Scale) -> String {
    let mut out = format!(
        "<svg viewBox=\"0 0 {SIDE} {SIDE}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">",
        escape(&spoken(chart, lines))
    );
    for (value, _) in y_scale.ticks() {
        let y = SIDE * (1.0 - y_scale.share(value));
        out.push_str(&format!("<path class=\"grid\" d=\"M0 {y:.1}H{SIDE}\"/>"));
    }
    for (value, _) in x_scale.ticks() {
        out.push_str(&format!("<path class=\"grid\" d=\"M{:.1} 0V{SIDE}\"/>", SIDE * x_scale.share(value)));
    }
    for (class, smooth) in [("raw", false), ("line", true)] {
        for line in lines {
            let points = if smooth { &line.smooth } else { &line.raw };
            // A line too short to smooth is its own raw line.
            if points.is_empty() || (!smooth && line.smooth.len() < MIN_POINTS_TO_SMOOTH) {
                continue;
            }
            let d = path(points, x_scale, y_scale);
            out.push_str(&format!(
                "<path class=\"{class} m{}\" data-method=\"{}\" d=\"{d}\"/>",
                line.colour,
                escape(line.method)
            ));
        }
    }
    out + "</svg>"
}

fn path(points: &[(f64, f64)], x_scale: &Scale, y_scale: &Scale) -> String {
    let mut d = String::new();
    for &(x, y) in points {
        let command = if d.is_empty() { 'M' } else { 'L' };
        let (x, y) = (SIDE * x_scale.share(x), SIDE * (1.0 - y_scale.share(y)));
        d.push_str(&format!("{command}{x:.1} {y:.1}"));
    }
    if points.len() == 1 {
        d.push_str("h0");
    }
    d
}

/// What the picture says, for those who do not see it.
fn spoken(chart: &Chart, lines: &[Line]) -> String {
    let mut text = format!("{} against {}", chart.y_label, chart.x_label);
    for line in lines {
        if let (Some(first), Some(last)) = (line.smooth.first(), line.smooth.last()) {
            text.push_str(&format!("; {} from {} to {}", line.method, significant(first.1), significant(last.1)));
        }
    }
    text
}

/// Tick labels at percentages, with the longest also in the flow, so that it gives the column its width.
fn tick_labels(class: &str, edge: &str, scale: &Scale) -> String {
    let ticks = scale.ticks();
    let longest = ticks.iter().map(|(_, text)| text.as_str()).max_by_key(|text| text.len()).unwrap_or("");
    let labels: String = ticks
        .iter()
        .map(|(value, text)| format!("<span style=\"{edge}:{:.2}%\">{text}</span>", 100.0 * scale.share(*value)))
        .collect();
    format!("<div class=\"{class}\" aria-hidden=\"true\"><i>{longest}</i>{labels}</div>")
}

/// Each line's name and last value beside its end, pushed apart where they would overlap.
fn end_labels(lines: &[Line], y_scale: &Scale) -> String {
    let ends: Vec<(&Line, f64)> = lines.iter().filter_map(|line| Some((line, line.smooth.last()?.1))).collect();
    let wanted: Vec<f64> = ends.iter().map(|(_, value)| PLOT_HEIGHT * (1.0 - y_scale.share(*value))).collect();
    let tops = spread(&wanted, LABEL_HEIGHT, PLOT_HEIGHT);
    let longest = ends.iter().map(|(line, _)| line.method).max_by_key(|name| name.chars().count()).unwrap_or("");
    let labels: String = ends
        .iter()
        .zip(tops)
        .map(|((line, value), top)| {
            format!(
                "<span class=\"m{}\" style=\"top:{:.2}%\"><b>{}</b>{}</span>",
                line.colour,
                100.0 * top / PLOT_HEIGHT,
                escape(line.method),
                significant3(*value)
            )
        })
        .collect();
    format!("<div class=\"ends\" aria-hidden=\"true\"><i>{}</i>{labels}</div>", escape(longest))
}

fn significant3(value: f64) -> String {
    let text = format!("{value:.2}");
    if value.abs() >= 0.1 && value.abs() < 10_000.0 { text } else { significant(value) }
}

/// Centres moved as little as needed to lie `gap` apart and, if there is room, inside `[0, height]`.
fn spread(wanted: &[f64], gap: f64, height: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
    let mut centres = wanted.to_vec();
    let mut lowest_free = gap / 2.0;
    for &index in &order {
        centres[index] = centres[index].max(lowest_free);
        lowest_free = centres[index] + gap;
    }
    let mut highest_free = height - gap / 2.0;
    for &index in order.iter().rev() {
        centres[index] = centres[index].min(highest_free);
        highest_free = centres[index] - gap;
    }
    centres
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>, log_y: bool) -> Chart {
        Chart {
            title: "loss <1>".to_owned(),
            x_label: "step".to_owned(),
            y_label: "loss".to_owned(),
            log_y,
            series: vec![Series { method: "A & B".to_owned(), points }],
        }
    }

    #[test]
    fn long_lines_are_smoothed_over_a_raw_line_and_short_ones_are_not() {
        let line = |n: u32| (0..n).map(|x| (f64::from(x), 1.0 + f64::from(x % 2))).collect::<Vec<_>>();
        let long = chart_html(&chart(line(300), false), |_| 3);
        assert!(long.contains("class=\"raw m3\"") && long.contains("class=\"line m3\""));
        let short = chart_html(&chart(line(10), false), |_| 3);
        assert!(!short.contains("class=\"raw") && short.contains("class=\"line m3\""));
        assert!(long.contains("loss &lt;1&gt;") && long.contains("A &amp; B"));
    }

    #[test]
    fn smoothing_keeps_a_straight_line_and_removes_alternation() {
        let straight: Vec<(f64, f64)> = (0..100).map(|x| (f64::from(x), 2.0 * f64::from(x))).collect();
        for (before, after) in straight.iter().zip(smoothed(&straight, false)) {
            assert!((before.1 - after.1).abs() < 1e-9);
        }
        let teeth: Vec<(f64, f64)> = (0..200).map(|x| (f64::from(x), f64::from(x % 2))).collect();
        assert!((smoothed(&teeth, false)[100].1 - 0.5).abs() < 0.01);
    }

    #[test]
    fn long_lines_are_thinned_but_keep_their_extremes() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|x| (f64::from(x), 1.0)).collect();
        points[54_321].1 = 9.0;
        let raw = extremes(&points);
        assert!(raw.len() <= 2 * MAX_BINS && raw.contains(&(54_321.0, 9.0)));
        assert!(raw.is_sorted_by(|a, b| a.0 <= b.0));
        assert!(means(&points).len() <= MAX_BINS + 2);
    }

    #[test]
    fn points_that_cannot_be_drawn_are_left_out() {
        for points in
            [vec![], vec![(0.0, f64::NAN), (f64::INFINITY, 1.0)], vec![(1.0, 1.0)], vec![(0.0, -1.0), (1.0, 0.0)]]
        {
            for log_y in [false, true] {
                let html = chart_html(&chart(points.clone(), log_y), |_| 0);
                assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
            }
        }
    }

    #[test]
    fn labels_are_spread_and_stay_inside() {
        assert_eq!(spread(&[100.0, 101.0, 20.0], 30.0, 240.0), [100.0, 130.0, 20.0]);
        assert_eq!(spread(&[239.0, 240.0], 30.0, 240.0), [195.0, 225.0]);
        assert_eq!(spread(&[0.0], 30.0, 240.0), [15.0]);
    }
}
