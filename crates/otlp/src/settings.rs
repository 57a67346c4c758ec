//! Where spans go and under which name, by the variables of the specification
//! (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).

use std::fmt;

/// The headers may hold a secret: they are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where spans are posted to.
    pub endpoint: String,
    pub headers: Vec<(String, String)>,
    pub service: String,
    pub version: String,
    /// Whose spans they are.
    pub node: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value} {why}")]
pub struct SettingsError {
    name: String,
    value: String,
    why: &'static str,
}

const SERVICE: &str = "innkeeper";

impl Settings {
    /// `endpoint` is that of the configuration, a collector's address without a
    /// path; without it `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` counts as it is,
    /// then `OTEL_EXPORTER_OTLP_ENDPOINT`. `None` where there is none of them,
    /// or where `OTEL_SDK_DISABLED` is true.
    pub fn find(
        endpoint: Option<&str>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, SettingsError> {
        // An empty variable is as good as none, says the specification.
        let env = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        if env("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let of = |name: &'static str, is_base| Some((name, env(name)?, is_base));
        let found = endpoint
            .map(|endpoint| ("traces.endpoint", endpoint.to_owned(), true))
            .or_else(|| of("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", false))
            .or_else(|| of("OTEL_EXPORTER_OTLP_ENDPOINT", true));
        let Some((name, value, is_base)) = found else { return Ok(None) };
        if !value.starts_with("http://") && !value.starts_with("https://") {
            let why = "is no address such as http://127.0.0.1:4318: traces go by HTTP";
            return Err(SettingsError { name: name.to_owned(), value, why });
        }
        let endpoint = match is_base {
            true => format!("{}/v1/traces", value.trim_end_matches('/')),
            false => value,
        };
        let headers = env("OTEL_EXPORTER_OTLP_TRACES_HEADERS")
            .or_else(|| env("OTEL_EXPORTER_OTLP_HEADERS"))
            .unwrap_or_default();
        Ok(Some(Self {
            endpoint,
            headers: headers_of(&headers),
            service: env("OTEL_SERVICE_NAME").unwrap_or_else(|| SERVICE.to_owned()),
            version: String::new(),
            node: String::new(),
        }))
    }

    /// Without what may be a password in it.
    pub(crate) fn shown_endpoint(&self) -> String {
        let (scheme, rest) = self.endpoint.split_once("://").unwrap_or(("", &self.endpoint));
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = host.rsplit('@').next().unwrap_or(host);
        format!("{scheme}://{host}/{path}")
    }
}

/// `name=value,name=value`. What is not one is left out.
fn headers_of(text: &str) -> Vec<(String, String)> {
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
    };
    text.split(',').filter_map(header).filter(|(name, _)| !name.is_empty()).collect()
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.shown_endpoint())
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(endpoint: Option<&str>, env: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let of = |name: &str| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::find(endpoint, &of).map_err(|error| error.to_string())
    }

    #[test]
    fn the_configuration_counts_before_the_variables() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
        let whole = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://other/in?x=1");
        let endpoint = |found: Result<Option<Settings>, String>| found.unwrap().unwrap().endpoint;
        assert_eq!(find(None, &[]), Ok(None));
        assert_eq!(find(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Ok(None));
        assert_eq!(endpoint(find(None, &[base])), "http://collector:4318/v1/traces");
        assert_eq!(endpoint(find(None, &[base, whole])), "https://other/in?x=1");
        let configured = find(Some("http://here:1"), &[base, whole]);
        assert_eq!(endpoint(configured), "http://here:1/v1/traces");
        assert_eq!(find(Some("http://here:1"), &[("OTEL_SDK_DISABLED", "true")]), Ok(None));
        let refused = find(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")]);
        let refused = refused.unwrap_err();
        assert!(refused.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT=collector:4317 is no address"));
    }

    #[test]
    fn names_and_headers_are_the_specification_s() {
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:secret@collector"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=abc==, x = y,nonsense,=z"),
            ("OTEL_SERVICE_NAME", "rack-7"),
        ];
        let settings = find(None, &env).unwrap().unwrap();
        let headers = [("api-key", "abc=="), ("x", "y")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(settings.headers, headers);
        assert_eq!(settings.service, "rack-7");
        let shown = format!("{settings:?}");
        assert!(!shown.contains("abc") && !shown.contains("secret"), "{shown}");
    }
}
