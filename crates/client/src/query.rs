use std::fmt::{Display, Write};

/// A path below `/api` with its query, percent-encoded (RFC 3986, 2.3: only
/// the unreserved characters stay as they are).
#[derive(Debug, Clone)]
pub(crate) struct Target {
    text: String,
    has_query: bool,
}

impl Target {
    /// `segments` are encoded each, so that a name with a slash stays one.
    pub(crate) fn api(segments: &[&str]) -> Self {
        let mut text = String::from(inn_api::BASE);
        for segment in segments {
            text.push('/');
            encode(segment, &mut text);
        }
        Self { text, has_query: false }
    }

    pub(crate) fn plain(path: &str) -> Self {
        Self { text: path.to_owned(), has_query: false }
    }

    #[must_use]
    pub(crate) fn with(mut self, key: &str, value: impl Display) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        encode(key, &mut self.text);
        self.text.push('=');
        encode(&value.to_string(), &mut self.text);
        self
    }

    #[must_use]
    pub(crate) fn with_some(self, key: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Adds `key=true` when set; every flag of the API is off when absent.
    #[must_use]
    pub(crate) fn with_flag(self, key: &str, set: bool) -> Self {
        if set { self.with(key, true) } else { self }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

/// A duration in the form that the API's queries take.
pub(crate) fn duration(d: std::time::Duration) -> String {
    format!("{}ms", d.as_millis())
}

fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_taken_for_syntax_is_encoded() {
        let target = Target::api(&["vms", "a/../b", "files"])
            .with("path", "/in/ä b&c=d+e.py")
            .with_some("mode", None::<&str>)
            .with_flag("follow", false)
            .with_flag("tty", true);
        assert_eq!(
            target.as_str(),
            "/api/vms/a%2F..%2Fb/files?path=%2Fin%2F%C3%A4%20b%26c%3Dd%2Be.py&tty=true"
        );
    }
}
