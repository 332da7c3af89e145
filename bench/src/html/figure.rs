//! A chart with its heading, legend and note.

use super::svg::escape;

/// An entry of a legend; with scripts it shows and hides its series.
#[derive(Debug, Clone)]
pub(super) struct Legend {
    name: String,
    series: usize,
    class: String,
}

impl Legend {
    /// Of a series, drawn in a class of curve.
    pub(super) fn new(name: &str, series: usize, class: &str) -> Self {
        Self {
            name: name.to_owned(),
            series,
            class: class.to_owned(),
        }
    }
}

/// One chart.
#[derive(Debug)]
pub(super) struct Figure {
    /// Its heading.
    pub(super) title: String,
    /// What one must know to read it.
    pub(super) note: String,
    /// In the order of the lines.
    pub(super) legend: Vec<Legend>,
    /// The drawing.
    pub(super) svg: String,
    /// Whether it takes the page's whole width.
    pub(super) wide: bool,
}

impl Figure {
    /// As HTML.
    pub(super) fn html(&self) -> String {
        let entries = self.legend.iter().map(|entry| {
            format!(
                r#"<button type="button" data-t="{}" aria-pressed="true"><i class="key {} c{}"></i>{}</button>"#,
                entry.series,
                entry.class,
                entry.series,
                escape(&entry.name)
            )
        });
        let legend = match self.legend.len() {
            0 => String::new(),
            _ => format!(
                "<div class=\"legend\">{}</div>\n",
                entries.collect::<String>()
            ),
        };
        let note = match self.note.as_str() {
            "" => String::new(),
            note => format!("<p class=\"note\">{}</p>\n", escape(note)),
        };
        format!(
            "<figure class=\"card{}\">\n<figcaption>{}</figcaption>\n{legend}{}{note}</figure>\n",
            if self.wide { " wide" } else { "" },
            escape(&self.title),
            self.svg
        )
    }
}
