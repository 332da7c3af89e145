//! Lines over numbers of many sizes: a figure of the page, and a picture that stands alone.
//!
//! The picture is for a README: one SVG file with its own colours, light and dark, and no script.

use super::figure::{Figure, Legend};
use super::svg::{Axis, Drawing, count, escape};
use crate::table::Chart;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 380.0;
const PLOT: (f64, f64, f64, f64) = (66.0, 16.0, 560.0, 326.0);
/// From one label of a line to the next below it.
const LABEL: f64 = 16.0;
/// Above the drawing of a picture, for its heading.
const HEAD: f64 = 34.0;
/// The colours of the page's style sheet.
const STYLE: &str = "text{font:12.5px system-ui,sans-serif;fill:#5b6878}.end{text-anchor:end}\
.middle{text-anchor:middle}.strong{fill:#16202c;font-weight:600}.head{font-size:15px}\
.grid{stroke:#dfe4ea}.minor{stroke:#eef1f4}.curve{fill:none;stroke-width:2.2}.dot{stroke:none}\
.c0{stroke:#2563eb;fill:#2563eb}.c1{stroke:#e8590c;fill:#e8590c}.c2{stroke:#0f8a5f;fill:#0f8a5f}\
.c3{stroke:#d6336c;fill:#d6336c}.c4{stroke:#8b5cf6;fill:#8b5cf6}.curve{fill:none}\
@media(prefers-color-scheme:dark){text{fill:#94a2b4}.strong{fill:#e6ebf2}.grid{stroke:#2a3442}\
.minor{stroke:#1f2834}}";

/// Of the page; `None` if there is nothing to draw.
pub(super) fn figure(chart: &Chart) -> Option<Figure> {
    let drawing = draw(chart)?;
    let legend = chart.lines.iter().enumerate();
    Some(Figure {
        title: chart.title.clone(),
        note: String::new(),
        legend: legend
            .map(|(series, line)| Legend::new(&line.name, series, ""))
            .collect(),
        svg: drawing.finish(),
        wide: true,
    })
}

/// A file of its own; `None` if there is nothing to draw.
pub(crate) fn picture(chart: &Chart) -> Option<String> {
    let drawing = draw(chart)?.finish();
    let title = escape(&chart.title);
    let height = HEIGHT + HEAD;
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
         <text x=\"12\" y=\"22\" class=\"strong head\">{title}</text>\n\
         <g transform=\"translate(0 {HEAD})\">\n{}</g>\n</svg>\n",
        drawing.replacen(
            "<svg ",
            &format!("<svg width=\"{WIDTH}\" height=\"{HEIGHT}\" "),
            1
        )
    ))
}

fn draw(chart: &Chart) -> Option<Drawing> {
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let is_drawn = |value: f64| value.is_finite() && value > 0.0;
    if !points().any(|(x, y)| is_drawn(*x) && is_drawn(*y)) {
        return None;
    }
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let values = values.filter(|value| is_drawn(*value));
        values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
            (low.min(value), high.max(value))
        })
    };
    let (left, top, right, bottom) = PLOT;
    let x = Axis::log(range(&mut points().map(|(x, _)| *x)), (left, right));
    let y = Axis::log(range(&mut points().map(|(_, y)| *y)), (bottom, top));
    let mut drawing = Drawing::new(WIDTH, HEIGHT, &chart.title);
    drawing.y_axis(&y, (left, right), count);
    drawing.x_axis(&x, (top, bottom), count);
    drawing.text((12.0, top + 2.0), "start", &chart.y);
    let middle = (f64::midpoint(left, right), HEIGHT - 8.0);
    drawing.text(middle, "middle", &chart.x);
    let mut labels = Vec::new();
    for (series, line) in chart.lines.iter().enumerate() {
        let drawn = line
            .points
            .iter()
            .filter(|(x, y)| is_drawn(*x) && is_drawn(*y));
        let at: Vec<_> = drawn.clone().map(|(a, b)| (x.at(*a), y.at(*b))).collect();
        drawing.curve(&at, series, "");
        for (at, (of, value)) in at.iter().zip(drawn) {
            let told = format!("{}: {} at {}", line.name, count(*value), count(*of));
            drawing.dot(*at, series, ("", &told));
        }
        if let (Some((end, height)), Some((_, value))) = (at.last(), line.points.last()) {
            let told = format!("{} {}", line.name, count(*value));
            labels.push((height + 4.0, end + 9.0, told));
        }
    }
    labels.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
    let mut above = f64::NEG_INFINITY;
    for (height, left, told) in labels {
        above = height.max(above + LABEL);
        drawing.text((left, above), "start strong", &told);
    }
    Some(drawing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Line;

    fn chart(points: &[(f64, f64)]) -> Chart {
        Chart {
            title: "Loops & more".to_owned(),
            x: "messages".to_owned(),
            y: "s".to_owned(),
            lines: vec![Line {
                name: "ringlog".to_owned(),
                points: points.to_vec(),
            }],
        }
    }

    #[test]
    fn a_picture_stands_alone_and_names_its_lines() {
        let picture = picture(&chart(&[(1e3, 0.02), (1e6, 9.5)])).unwrap();
        assert!(picture.starts_with("<svg xmlns="), "{picture}");
        for part in [
            "Loops &amp; more",
            "<style>",
            "ringlog 9.5",
            "ringlog: 0.02 at 1000",
        ] {
            assert!(picture.contains(part), "no {part:?} in {picture}");
        }
        assert!(!picture.contains("<script") && !picture.contains("NaN"));
    }

    #[test]
    fn labels_of_lines_that_end_together_stand_below_each_other() {
        let mut chart = chart(&[(1.0, 1.0), (1e3, 90.0)]);
        chart.lines.push(chart.lines[0].clone());
        let picture = picture(&chart).unwrap();
        let labels = picture.lines().filter(|line| line.contains("ringlog 90"));
        let height = |line: &str| line.split('"').nth(3).unwrap().parse::<f64>().unwrap();
        let heights: Vec<_> = labels.map(height).collect();
        assert!(heights[1] - heights[0] >= LABEL - 0.1, "{heights:?}");
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        for points in [&[][..], &[(1.0, f64::NAN)], &[(0.0, 1.0)]] {
            assert!(picture(&chart(points)).is_none(), "{points:?}");
        }
        let some = figure(&chart(&[(1.0, f64::INFINITY), (10.0, 2.0)])).unwrap();
        assert!(!some.svg.contains("NaN") && !some.svg.contains("inf"));
    }
}
