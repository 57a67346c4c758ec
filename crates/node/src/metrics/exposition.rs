//! Metrics as text, in the two forms that Prometheus reads.
//!
//! The text format 0.0.4 (prometheus.io, "Exposition formats") and OpenMetrics
//! 1.0, which differ in how a counter and an info are declared, and in an end.

use std::fmt::Write as _;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Prometheus,
    OpenMetrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its samples end in `_total`.
    Counter,
    Gauge,
    /// Its samples end in `_info`, and are 1.
    Info,
    Histogram,
}

/// A text that grows family by family.
#[derive(Debug)]
pub(super) struct Exposition {
    form: Form,
    text: String,
}

/// Metrics of one name. All its samples come one after the other.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    suffix: &'static str,
}

pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

impl Form {
    /// By what a scraper accepts.
    pub(crate) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Exposition {
    pub(super) fn new(form: Form) -> Self {
        Self { form, text: String::with_capacity(64 << 10) }
    }

    /// `name` without `_total` and `_info`.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let (suffix, word) = match (kind, self.form) {
            (Kind::Counter, _) => ("_total", "counter"),
            (Kind::Gauge, _) => ("", "gauge"),
            (Kind::Info, Form::OpenMetrics) => ("_info", "info"),
            (Kind::Info, Form::Prometheus) => ("_info", "gauge"),
            (Kind::Histogram, _) => ("", "histogram"),
        };
        let declared = match self.form {
            Form::Prometheus => suffix,
            Form::OpenMetrics => "",
        };
        // Writing to a String cannot fail, here and below.
        let _ = write!(self.text, "# HELP {name}{declared} ");
        escape(help, &mut self.text);
        let _ = writeln!(self.text, "\n# TYPE {name}{declared} {word}");
        Family { text: &mut self.text, name, suffix }
    }

    pub(super) fn finish(mut self) -> String {
        if self.form == Form::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

impl Family<'_> {
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Value) -> &mut Self {
        self.write(self.suffix, labels, None, value);
        self
    }

    /// `counts` are of values up to each of `bounds`, and of all.
    pub(super) fn histogram(
        &mut self,
        labels: Labels<'_>,
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        let mut so_far = 0;
        for (at, count) in counts.iter().enumerate() {
            so_far += count;
            let bound = bounds.get(at).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            self.write("_bucket", labels, Some(("le", &bound)), so_far);
        }
        self.write("_sum", labels, None, sum);
        self.write("_count", labels, None, so_far);
    }

    fn write(
        &mut self,
        suffix: &str,
        labels: Labels<'_>,
        last: Option<(&'static str, &str)>,
        value: impl Value,
    ) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let all = labels.iter().copied().chain(last);
        let mut opened = false;
        for (name, value) in all {
            self.text.push(if opened { ',' } else { '{' });
            opened = true;
            let _ = write!(self.text, "{name}=\"");
            escape(value, self.text);
            self.text.push('"');
        }
        if opened {
            self.text.push('}');
        }
        self.text.push(' ');
        value.write(self.text);
        self.text.push('\n');
    }
}

/// A backslash, a quote and a line feed; the first two are as well escaped in a
/// help, where they need not be.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

pub(super) trait Value {
    fn write(self, out: &mut String);
}

impl Value for u64 {
    fn write(self, out: &mut String) {
        let _ = write!(out, "{self}");
    }
}

impl Value for usize {
    fn write(self, out: &mut String) {
        let _ = write!(out, "{self}");
    }
}

impl Value for bool {
    fn write(self, out: &mut String) {
        out.push(if self { '1' } else { '0' });
    }
}

impl Value for f64 {
    fn write(self, out: &mut String) {
        let _ = write!(out, "{self}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(form: Form) -> String {
        let mut text = Exposition::new(form);
        text.family("inn_build", Kind::Info, "which").sample(&[("version", "1\"2\\3\n4")], 1u64);
        text.family("inn_things", Kind::Counter, "counted")
            .sample(&[("kind", "a"), ("of", "b")], 7u64)
            .sample(&[("kind", "c"), ("of", "d")], 0.25);
        text.family("inn_level", Kind::Gauge, "a level").sample(&[], true);
        text.family("inn_took_seconds", Kind::Histogram, "how long").histogram(
            &[("route", "/x")],
            &[0.5, 1.0],
            &[2, 0, 1],
            3.5,
        );
        text.finish()
    }

    #[test]
    fn both_forms_say_the_same() {
        insta::assert_snapshot!("prometheus", all(Form::Prometheus));
        insta::assert_snapshot!("openmetrics", all(Form::OpenMetrics));
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
        assert_eq!(Form::accepted(accept), Form::OpenMetrics);
        assert_eq!(Form::accepted("*/*"), Form::Prometheus);
    }
}
