//! Drawing: axes with ticks a person would choose, and the few shapes that the charts are made of.
//!
//! Coordinates are written with one decimal: a tenth of a pixel is not seen, and the page stays small.

use std::fmt::Write as _;

/// Text that may stand in HTML, attributes included.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Control characters are in no XML.
            letter if letter.is_control() && letter != '\n' && letter != '\t' => {
                escaped.push('\u{fffd}');
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// Microseconds in the unit that reads best.
pub(super) fn time(us: f64) -> String {
    if !us.is_finite() {
        return "-".to_owned();
    }
    let (value, unit) = match us {
        us if us >= 999_500.0 => (us / 1e6, "s"),
        us if us >= 999.5 => (us / 1e3, "ms"),
        us if us >= 0.9995 || us <= 0.0 => (us, "\u{b5}s"),
        us => (us * 1e3, "ns"),
    };
    format!("{}\u{a0}{unit}", short(value))
}

/// A number of three digits with k, M, G.
pub(super) fn count(number: f64) -> String {
    if !number.is_finite() {
        return "-".to_owned();
    }
    let (value, unit) = match number.abs() {
        size if size >= 999.5e6 => (number / 1e9, "\u{a0}G"),
        size if size >= 999.5e3 => (number / 1e6, "\u{a0}M"),
        size if size >= 9_999.5 => (number / 1e3, "\u{a0}k"),
        _ => (number, ""),
    };
    format!("{}{unit}", short(value))
}

/// Three digits, without zeros that say nothing.
pub(super) fn short(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 99.95 || size == 0.0 => return format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.9995 => format!("{value:.2}"),
        size if size >= 0.0095 => format!("{value:.3}"),
        _ => return format!("{value:.1e}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Maps values to pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) is_log: bool,
}

impl Axis {
    /// From zero or below it.
    pub(super) fn linear((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self {
            low,
            high,
            from,
            to,
            is_log: false,
        }
    }

    /// Of positive values, widened to ends that read well.
    pub(super) fn log((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        let low = if low.is_finite() && low > 1e-3 {
            low.min(LOG_MAX / 10.0)
        } else {
            1e-3
        };
        let high = if high.is_finite() {
            high.max(low * 1.5).min(LOG_MAX)
        } else {
            low * 10.0
        };
        Self {
            low: step(low * 1.001, false),
            high: step(high * 0.999, true),
            from,
            to,
            is_log: true,
        }
    }

    /// Where a value lies; outside the axis it is held at its end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let share = if self.is_log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    /// Values with a label, and values with only a line.
    pub(super) fn ticks(&self, about: usize) -> (Vec<f64>, Vec<f64>) {
        if self.is_log {
            return self.log_ticks(about);
        }
        let rough = (self.high - self.low) / about.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let nice = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step = nice.into_iter().find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(10.0 * power);
        let first = (self.low / step).ceil();
        let ticks = (0..50).map(|number| (first + f64::from(number)) * step);
        let ticks = ticks.take_while(|tick| *tick <= self.high + step * 1e-6);
        (ticks.collect(), Vec::new())
    }

    fn log_ticks(&self, about: usize) -> (Vec<f64>, Vec<f64>) {
        let decades = (self.high / self.low).log10();
        let labelled: &[u32] = match decades {
            decades if decades > about as f64 * 0.75 => &[1],
            decades if decades > about as f64 * 0.4 => &[1, 3],
            _ => &[1, 2, 5],
        };
        let (mut major, mut minor) = (Vec::new(), Vec::new());
        let mut power = 10f64.powf(self.low.log10().floor());
        while power <= self.high {
            for digit in 1..10 {
                let value = power * f64::from(digit);
                if value < self.low * 0.999 || value > self.high * 1.001 {
                    continue;
                }
                if labelled.contains(&digit) {
                    major.push(value);
                } else {
                    minor.push(value);
                }
            }
            power *= 10.0;
        }
        (major, minor)
    }
}

/// Microseconds of 30 thousand years: what a file says beyond is damage, and powers of ten must end.
const LOG_MAX: f64 = 1e18;

/// The nearest of 1, 2, 3, 5, 7 times a power of ten, below or above.
fn step(value: f64, up: bool) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 3.0, 5.0, 7.0, 10.0].map(|digit| digit * power);
    if up {
        let above = steps.into_iter().find(|step| *step >= value);
        above.unwrap_or(10.0 * power)
    } else {
        let below = steps.into_iter().rev().find(|step| *step <= value);
        below.unwrap_or(power)
    }
}

/// Points of a path.
pub(super) fn path(points: &[(f64, f64)]) -> String {
    let mut data = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        let letter = if index == 0 { 'M' } else { 'L' };
        write!(data, "{letter}{x:.1} {y:.1}").expect("writing to a String does not fail");
    }
    data
}

/// What a pointer at `x` is told: a heading, then a name and a value for each line.
#[derive(Debug, serde::Serialize)]
pub(super) struct Hint {
    /// In the drawing's coordinates.
    pub(super) x: f64,
    /// The heading.
    pub(super) t: String,
    /// Names and values.
    pub(super) r: Vec<(String, String)>,
}

/// A drawing in the making.
#[derive(Debug)]
pub(super) struct Drawing {
    width: f64,
    height: f64,
    title: String,
    body: String,
    hints: Vec<Hint>,
}

impl Drawing {
    /// An empty one; the title is what a screen reader says.
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        Self {
            width,
            height,
            title: title.to_owned(),
            body: String::new(),
            hints: Vec::new(),
        }
    }

    /// Adds SVG.
    pub(super) fn raw(&mut self, svg: &str) {
        self.body.push_str(svg);
        self.body.push('\n');
    }

    /// A text; `class` has its anchor: `start`, `middle`, `end`.
    pub(super) fn text(&mut self, (x, y): (f64, f64), class: &str, text: &str) {
        let text = escape(text);
        self.raw(&format!(
            r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{text}</text>"#
        ));
    }

    /// A straight line.
    pub(super) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        self.raw(&format!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#
        ));
    }

    /// A rectangle between two corners.
    pub(super) fn rect(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let (left, top) = (x1.min(x2), y1.min(y2));
        let (width, height) = ((x2 - x1).abs(), (y2 - y1).abs());
        self.raw(&format!(
            r#"<rect x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}" class="{class}"/>"#
        ));
    }

    /// A curve of series `series`.
    pub(super) fn curve(&mut self, points: &[(f64, f64)], series: usize, class: &str) {
        if points.len() > 1 {
            let data = path(points);
            self.raw(&format!(
                r#"<path d="{data}" class="curve {class} c{series}" data-s="{series}"/>"#
            ));
        }
    }

    /// A dot of series `series`, with what it is.
    pub(super) fn dot(&mut self, (x, y): (f64, f64), series: usize, (class, title): (&str, &str)) {
        let title = escape(title);
        self.raw(&format!(
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" class="dot {class} c{series}" data-s="{series}"><title>{title}</title></circle>"#
        ));
    }

    /// Horizontal lines and labels of `axis` between `left` and `right`.
    pub(super) fn y_axis(
        &mut self,
        axis: &Axis,
        (left, right): (f64, f64),
        label: impl Fn(f64) -> String,
    ) {
        let about = ((axis.from - axis.to).abs() / 42.0).round().max(3.0) as usize;
        let (major, minor) = axis.ticks(about);
        for value in minor {
            self.line(
                (left, axis.at(value)),
                (right, axis.at(value)),
                "grid minor",
            );
        }
        for value in major {
            let y = axis.at(value);
            self.line((left, y), (right, y), "grid");
            self.text((left - 7.0, y + 4.0), "end", &label(value));
        }
    }

    /// Vertical lines and labels of `axis` between `top` and `bottom`.
    pub(super) fn x_axis(
        &mut self,
        axis: &Axis,
        (top, bottom): (f64, f64),
        label: impl Fn(f64) -> String,
    ) {
        let about = ((axis.to - axis.from).abs() / 75.0).round().max(2.0) as usize;
        let (major, minor) = axis.ticks(about);
        for value in minor {
            self.line(
                (axis.at(value), top),
                (axis.at(value), bottom),
                "grid minor",
            );
        }
        for value in major {
            let x = axis.at(value);
            self.line((x, top), (x, bottom), "grid");
            self.text((x, bottom + 18.0), "middle", &label(value));
        }
    }

    /// Something for a pointer to find.
    pub(super) fn hint(&mut self, x: f64, heading: String, rows: Vec<(String, String)>) {
        let x = (x * 10.0).round() / 10.0;
        self.hints.push(Hint {
            x,
            t: heading,
            r: rows,
        });
    }

    /// The whole.
    pub(super) fn finish(self) -> String {
        let hints = match self.hints.as_slice() {
            [] => String::new(),
            hints => {
                let json = serde_json::to_string(hints).unwrap_or_default();
                format!(r#" data-hints="{}""#, escape(&json))
            }
        };
        format!(
            "<svg viewBox=\"0 0 {w:.0} {h:.0}\" role=\"img\" aria-label=\"{title}\"{hints}>\n{body}</svg>\n",
            w = self.width,
            h = self.height,
            title = escape(&self.title),
            body = self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_counts_read_well() {
        let told: Vec<_> = [0.5, 88.0, 1940.0, 999.7, 2_500_000.0].map(time).to_vec();
        let expected = [
            "500\u{a0}ns",
            "88\u{a0}\u{b5}s",
            "1.94\u{a0}ms",
            "1\u{a0}ms",
            "2.5\u{a0}s",
        ];
        assert_eq!(told, expected);
        assert_eq!(count(1_234_567.0), "1.23\u{a0}M");
        assert_eq!(count(9_999.0), "9999");
        assert_eq!(count(0.0), "0");
    }

    #[test]
    fn an_axis_keeps_what_is_outside_at_its_ends() {
        let axis = Axis::linear((0.0, 10.0), (100.0, 0.0));
        assert_eq!(
            (axis.at(-5.0), axis.at(5.0), axis.at(50.0)),
            (100.0, 50.0, 0.0)
        );
        let axis = Axis::log((12.0, 4400.0), (0.0, 1.0));
        assert_eq!((axis.low, axis.high), (10.0, 5000.0));
        assert!(axis.at(f64::MIN_POSITIVE) == 0.0 && axis.at(f64::INFINITY) == 1.0);
    }

    #[test]
    fn axes_without_extent_have_ticks_all_the_same() {
        for (low, high) in [(0.0, 0.0), (5.0, 5.0), (0.0, f64::NAN), (f64::NAN, 1.0)] {
            let axis = Axis::log((low, high), (0.0, 100.0));
            let (major, _) = axis.ticks(5);
            assert!(
                !major.is_empty() && axis.at(low).is_finite() || low.is_nan(),
                "{axis:?}"
            );
        }
        let (ticks, _) = Axis::linear((0.0, 0.0), (0.0, 1.0)).ticks(5);
        assert!(ticks.len() > 1, "{ticks:?}");
    }

    #[test]
    fn an_axis_of_what_nothing_takes_ends() {
        for (low, high) in [(1.0, f64::MAX), (f64::MAX, f64::MAX), (5e-324, 1e300)] {
            let axis = Axis::log((low, high), (0.0, 100.0));
            let (major, minor) = axis.ticks(5);
            assert!((1..300).contains(&(major.len() + minor.len())), "{axis:?}");
            assert!(
                axis.at(low).is_finite() && axis.at(high).is_finite(),
                "{axis:?}"
            );
        }
    }

    #[test]
    fn what_would_end_an_attribute_or_a_tag_is_escaped() {
        assert_eq!(
            escape("<a b='c'>\"&\u{7}"),
            "&lt;a b=&#39;c&#39;&gt;&quot;&amp;\u{fffd}"
        );
    }
}
