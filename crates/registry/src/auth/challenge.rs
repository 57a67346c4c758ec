//! `WWW-Authenticate` (RFC 9110, 11.6.1, and distribution's token
//! specification). Pure.

/// How a registry wants to be convinced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The best of what the headers offer: a token before a password.
pub(crate) fn best<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for (scheme, parameters) in headers.flat_map(challenges) {
        let get = |name: &str| {
            parameters
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, v)| v.clone())
        };
        if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            return Some(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
        }
        if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

/// `Bearer realm="a",scope="b,c", Basic realm="d"`: schemes with parameters.
fn challenges(header: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let word_end = rest.find([' ', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end);
        let after_space = after.trim_start_matches(' ');
        if let Some(value) = after_space.strip_prefix('=')
            && let Some((_, parameters)) = found.last_mut()
        {
            let (value, behind) = parameter(value.trim_start_matches(' '));
            parameters.push((word.to_owned(), value));
            rest = behind;
        } else {
            if !word.is_empty() {
                found.push((word.to_owned(), Vec::new()));
            }
            // Past a sign that nothing can begin with.
            rest = after.strip_prefix('=').unwrap_or(after);
        }
        rest = rest.trim_start_matches([' ', ',']);
    }
    found
}

/// A token or a quoted text, and what is behind it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(header: &str) -> Option<Challenge> {
        best(std::iter::once(header))
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: owned(service),
            scope: owned(scope),
        })
    }

    #[test]
    fn what_registries_send_is_read() {
        assert_eq!(
            read(
                r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#
            ),
            bearer(
                "https://auth.example/token",
                Some("r.example"),
                Some("repository:a/b:pull,push")
            )
        );
        assert_eq!(
            read(r#"bearer REALM=https://a , service = "x y""#),
            bearer("https://a", Some("x y"), None)
        );
        assert_eq!(read(r#"Basic realm="Registry Realm""#), Some(Challenge::Basic));
        assert_eq!(read("Basic"), Some(Challenge::Basic));
        assert_eq!(read(r#"Basic realm="x", Bearer realm="y\"z""#), bearer("y\"z", None, None));
        assert_eq!(
            best([r#"Basic realm="x""#, r#"Bearer realm="y""#].into_iter()),
            bearer("y", None, None)
        );
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        for odd in ["", "Bearer", "Digest realm=x", "=", ",,,", "=\"", "Bearer service=\"x\""] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_to_its_end(text in "([A-Za-z]{0,6}|[ ,=\"\\\\]|é){0,40}") {
            let _ = read(&text);
        }
    }
}
