//! What an answer to a request for the rest of something means. Pure.

use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap};

/// What is asked for, and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) from: u64,
    /// The length of the whole, where somebody has said it.
    pub(crate) total: Option<u64>,
}

/// What comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coming {
    /// Bytes to throw away: the host begins earlier than it was asked to.
    pub(crate) skip: u64,
    /// The length of the whole.
    pub(crate) total: Option<u64>,
}

/// Reads status and headers; the error says how the host lies.
pub(crate) fn judge(
    status: StatusCode,
    headers: &HeaderMap,
    asked: Asked,
) -> Result<Coming, String> {
    let (start, total) = match status {
        StatusCode::OK => (0, length(headers)),
        StatusCode::PARTIAL_CONTENT => {
            let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
            if kind.starts_with("multipart/byteranges") {
                return Err("it answered with several ranges where one was asked for".to_owned());
            }
            content_range(headers)?
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            let whole = unsatisfied(headers).or(asked.total);
            if whole == Some(asked.from) {
                return Ok(Coming { skip: 0, total: whole });
            }
            return Err(format!("it has nothing from byte {} on", asked.from));
        }
        other => return Err(format!("it answered {other} where the content was expected")),
    };
    if let (Some(known), Some(said)) = (asked.total, total)
        && known != said
    {
        return Err(format!("it speaks of {said} bytes where there should be {known}"));
    }
    if start > asked.from {
        return Err(format!("it sends from byte {start} on where {} was asked for", asked.from));
    }
    Ok(Coming { skip: asked.from - start, total: asked.total.or(total) })
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `bytes 5-9/10`: where it begins, and the whole's length (RFC 9110, 14.4).
fn content_range(headers: &HeaderMap) -> Result<(u64, Option<u64>), String> {
    let refuse = || "its Content-Range makes no sense".to_owned();
    let text = headers.get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).ok_or_else(refuse)?;
    let (range, total) =
        text.strip_prefix("bytes ").and_then(|r| r.split_once('/')).ok_or_else(refuse)?;
    let (first, last) = range.split_once('-').ok_or_else(refuse)?;
    let (first, last): (u64, u64) = match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => (first, last),
        _ => return Err(refuse()),
    };
    let total = match total {
        "*" => None,
        total => Some(total.parse::<u64>().map_err(|_| refuse())?),
    };
    if total.is_some_and(|total| last >= total) {
        return Err(refuse());
    }
    Ok((first, total))
}

/// `bytes */10`.
fn unsatisfied(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes */")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use reqwest::header::HeaderName;

    fn answer(
        status: u16,
        headers: &[(HeaderName, &str)],
        from: u64,
        total: Option<u64>,
    ) -> Result<Coming, String> {
        let headers = headers.iter().map(|(k, v)| (k.clone(), v.parse().unwrap())).collect();
        judge(StatusCode::from_u16(status).unwrap(), &headers, Asked { from, total })
    }

    #[test]
    fn the_range_that_was_asked_for_is_taken() {
        let range = [(CONTENT_RANGE, "bytes 5-9/10")];
        let rest = Ok(Coming { skip: 0, total: Some(10) });
        assert_eq!(answer(206, &range, 5, None), rest);
        assert_eq!(answer(206, &range, 5, Some(10)), rest);
        assert_eq!(answer(206, &[(CONTENT_RANGE, "bytes 5-9/*")], 5, Some(10)), rest);
    }

    #[test]
    fn a_host_that_ignores_the_range_is_skipped_through() {
        let whole = [(CONTENT_LENGTH, "10")];
        assert_eq!(answer(200, &whole, 5, Some(10)), Ok(Coming { skip: 5, total: Some(10) }));
        assert_eq!(answer(200, &[], 5, None), Ok(Coming { skip: 5, total: None }));
        let earlier = [(CONTENT_RANGE, "bytes 3-9/10")];
        assert_eq!(answer(206, &earlier, 5, None), Ok(Coming { skip: 2, total: Some(10) }));
    }

    #[test]
    fn lies_are_found() {
        for (status, headers, from) in [
            (206, vec![(CONTENT_RANGE, "bytes 6-9/10")], 5),
            (206, vec![(CONTENT_RANGE, "bytes 5-9/11")], 5),
            (206, vec![(CONTENT_RANGE, "bytes 5-10/10")], 5),
            (206, vec![(CONTENT_RANGE, "bytes 9-5/10")], 5),
            (206, vec![(CONTENT_RANGE, "5-9")], 5),
            (206, vec![], 5),
            (
                206,
                vec![
                    (CONTENT_RANGE, "bytes 5-9/10"),
                    (CONTENT_TYPE, "multipart/byteranges; boundary=x"),
                ],
                5,
            ),
            (200, vec![(CONTENT_LENGTH, "11")], 0),
            (204, vec![], 0),
            (416, vec![(CONTENT_RANGE, "bytes */4")], 5),
        ] {
            assert!(answer(status, &headers, from, Some(10)).is_err(), "{status} {headers:?}");
        }
    }

    #[test]
    fn nothing_behind_the_end_is_the_end() {
        let end = Ok(Coming { skip: 0, total: Some(5) });
        assert_eq!(answer(416, &[(CONTENT_RANGE, "bytes */5")], 5, None), end);
        assert_eq!(answer(416, &[], 5, Some(5)), end);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(text in "(bytes )?[0-9*/-]{0,50}", from in any::<u64>()) {
            let _ = answer(206, &[(CONTENT_RANGE, &text)], from, Some(10));
            let _ = answer(416, &[(CONTENT_RANGE, &text)], from, None);
        }
    }
}
