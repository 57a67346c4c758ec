//! Several user data in one, as cloud-init takes them: a MIME multipart
//! archive (its documentation's "MIME multi-part archive").

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// RFC 2045, 6.8.
const LINE: usize = 76;

pub(crate) struct Part<'a> {
    /// What stands before the content, without its encoding; every line ended.
    pub(crate) headers: &'a str,
    pub(crate) content: &'a str,
}

/// `theirs` comes first: cloud-init merges later parts into earlier ones. One
/// that is a MIME archive already stands in this one as it is.
pub(crate) fn archive(theirs: &str, ours: &Part<'_>) -> String {
    let nested = is_archive(theirs);
    let mut boundary = String::from("inn-part");
    while nested && theirs.contains(&boundary) {
        boundary.push('.');
    }
    let mut out = format!(
        "Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n--{boundary}\n"
    );
    if nested {
        out.push_str(theirs);
    } else {
        // What it is, cloud-init sees by its first line.
        part(&mut out, &Part { headers: "", content: theirs });
    }
    let _ = write!(out, "\n--{boundary}\n");
    part(&mut out, ours);
    let _ = writeln!(out, "\n--{boundary}--");
    out
}

/// As cloud-init tells: by the one header that has to be there.
pub(crate) fn is_archive(text: &str) -> bool {
    let head: Vec<u8> = text.bytes().take(4096).map(|b| b.to_ascii_lowercase()).collect();
    head.windows(13).any(|bytes| bytes == b"mime-version:")
}

/// In base64: Python's parser would take bytes beyond ASCII for something else.
fn part(out: &mut String, part: &Part<'_>) {
    out.push_str("Content-Type: text/plain; charset=\"utf-8\"\nMIME-Version: 1.0\n");
    out.push_str(part.headers);
    out.push_str("Content-Transfer-Encoding: base64\n\n");
    let encoded = STANDARD.encode(part.content);
    for line in encoded.as_bytes().chunks(LINE) {
        out.extend(line.iter().map(|b| char::from(*b)));
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_within_keeps_its_own_boundary() {
        let theirs = "Mime-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"inn-part\"\n\n\
                      --inn-part\n\n#!/bin/sh\n--inn-part--\n";
        let whole = archive(theirs, &Part { headers: "", content: "#cloud-config\n" });
        assert!(whole.contains("boundary=\"inn-part.\""), "{whole}");
        assert!(whole.contains(theirs), "{whole}");
        assert!(whole.ends_with("\n--inn-part.--\n"), "{whole}");
        assert!(is_archive(&whole));
    }
}
