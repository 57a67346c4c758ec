//! Conditions and ranges of a download (RFC 9110, 13 and 14).

use axum::http::{HeaderMap, HeaderName, header};

/// What a download's headers ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A range of the file: the first byte and, if it was given, the last.
    pub(super) range: Option<(u64, Option<u64>)>,
    /// The range counts only of this content.
    if_range: Option<String>,
    if_match: Option<String>,
    if_none_match: Option<String>,
    /// Whether a trailer is taken.
    pub(super) trailers: bool,
}

/// What the conditions make of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Send,
    /// All of it: the range is of another content.
    SendWhole,
    NotModified,
    Changed,
}

impl Wanted {
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| {
            let values: Vec<&str> =
                headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
            (!values.is_empty()).then(|| values.join(","))
        };
        let te = text(header::TE).unwrap_or_default();
        Self {
            range: text(header::RANGE).and_then(|range| single(&range)),
            if_range: text(header::IF_RANGE),
            if_match: text(header::IF_MATCH),
            if_none_match: text(header::IF_NONE_MATCH),
            trailers: te.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")),
        }
    }

    /// The one content that is asked for, if it is one alone.
    pub(super) fn expected(&self) -> Option<&str> {
        self.if_match.as_deref().filter(|tags| !tags.contains(',') && tags.trim() != "*")
    }

    pub(super) fn judge(&self, etag: &str) -> Verdict {
        if self.if_match.as_ref().is_some_and(|tags| !names(tags, etag)) {
            return Verdict::Changed;
        }
        if self.if_none_match.as_ref().is_some_and(|tags| names_weakly(tags, etag)) {
            return Verdict::NotModified;
        }
        // A date, which we do not compare, is another content as well.
        match &self.if_range {
            Some(tag) if self.range.is_some() && tag.trim() != etag => Verdict::SendWhole,
            _ => Verdict::Send,
        }
    }
}

fn names(tags: &str, etag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag == etag)
}

fn names_weakly(tags: &str, etag: &str) -> bool {
    let strong = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    tags.split(',').map(|tag| strong(tag.trim())).any(|tag| tag == "*" || tag == etag)
}

/// `bytes=N-` and `bytes=N-M`. Others a server may ignore (14.2), and this one
/// does: of several ranges or the last N bytes the whole file comes.
fn single(range: &str) -> Option<(u64, Option<u64>)> {
    let (unit, set) = range.split_once('=')?;
    let (first, last) = set.trim().split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let first = number(first)?;
    match last {
        "" => Some((first, None)),
        last => number(last).filter(|last| *last >= first).map(|last| (first, Some(last))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(headers: &[(HeaderName, &str)]) -> Wanted {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        Wanted::read(&headers)
    }

    #[test]
    fn single_ranges_are_read_and_others_ignored() {
        for (range, read) in [
            ("bytes=5-", Some((5, None))),
            ("bytes=5-5", Some((5, Some(5)))),
            ("Bytes = 0-99", Some((0, Some(99)))),
            ("bytes=6-5", None),
            ("bytes=-5", None),
            ("bytes=1-2,5-6", None),
            ("bytes=+1-2", None),
            ("bytes=99999999999999999999-", None),
            ("lines=1-2", None),
            ("bytes", None),
        ] {
            assert_eq!(wanted(&[(header::RANGE, range)]).range, read, "{range}");
        }
        assert!(wanted(&[(header::TE, "gzip, Trailers")]).trailers);
        assert!(!wanted(&[(header::TE, "gzip")]).trailers);
    }

    #[test]
    fn conditions_are_judged_in_their_order() {
        let (range, other) = ((header::RANGE, "bytes=1-"), "\"b\"");
        let judge = |headers: &[(HeaderName, &str)]| wanted(headers).judge("\"a\"");
        assert_eq!(judge(&[]), Verdict::Send);
        assert_eq!(judge(&[(header::IF_MATCH, "\"a\"")]), Verdict::Send);
        assert_eq!(judge(&[(header::IF_MATCH, "\"b\", \"a\"")]), Verdict::Send);
        assert_eq!(judge(&[(header::IF_MATCH, "*")]), Verdict::Send);
        assert_eq!(judge(&[(header::IF_MATCH, other)]), Verdict::Changed);
        assert_eq!(judge(&[(header::IF_MATCH, "W/\"a\"")]), Verdict::Changed);
        assert_eq!(judge(&[(header::IF_NONE_MATCH, "W/\"a\"")]), Verdict::NotModified);
        assert_eq!(judge(&[(header::IF_NONE_MATCH, other)]), Verdict::Send);
        assert_eq!(judge(&[range.clone(), (header::IF_RANGE, "\"a\"")]), Verdict::Send);
        assert_eq!(judge(&[range.clone(), (header::IF_RANGE, other)]), Verdict::SendWhole);
        let date = "Sat, 29 Oct 1994 19:43:31 GMT";
        assert_eq!(judge(&[range, (header::IF_RANGE, date)]), Verdict::SendWhole);
        let expected = |tags| wanted(&[(header::IF_MATCH, tags)]).expected().map(str::to_owned);
        assert_eq!(expected(other).as_deref(), Some(other));
        assert_eq!((expected("*"), expected("\"a\",\"b\"")), (None, None));
    }
}
