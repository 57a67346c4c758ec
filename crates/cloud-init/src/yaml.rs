//! YAML as far as merging two `#cloud-config`s needs it.
//!
//! ```text
//!   text ── events ──▶ Node ── merged ──▶ Node ── block style ──▶ text
//! ```
//!
//! cloud-init reads YAML 1.1 (PyYAML), where a plain `yes` is true and a plain
//! `0644` is 420, which YAML 1.2 has otherwise. So scalars keep their text and
//! whether they were plain: what they mean, cloud-init alone decides.

use std::collections::HashMap;
use std::fmt::Write as _;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};

/// As deep as anybody nests by hand, twice over.
const MAX_DEPTH: usize = 64;

/// Nodes once aliases have been filled in, which may well multiply them.
const MAX_NODES: usize = 50_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Scalar(Scalar),
    List(Vec<Self>),
    /// In the order in which they stand there; of a key that comes twice the
    /// last value, as PyYAML has it.
    Map(Vec<(Scalar, Self)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scalar {
    text: String,
    /// Not quoted, on one line: its meaning is found out from its text.
    plain: bool,
    /// One of YAML's own, such as `binary`.
    tag: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum YamlError {
    #[error("is no YAML: line {line}: {why}")]
    Syntax { line: usize, why: String },
    #[error("has in line {line} {what}, which is not understood here")]
    Unknown { line: usize, what: String },
    #[error("has more than one YAML document")]
    Documents,
    #[error("is nested more than {MAX_DEPTH} deep")]
    Deep,
    #[error("has more than {MAX_NODES} values, with its aliases filled in")]
    Large,
}

impl Scalar {
    pub(crate) fn quoted(text: impl Into<String>) -> Self {
        Self { text: text.into(), plain: false, tag: None }
    }

    fn is_null(&self) -> bool {
        self.plain
            && self.tag.is_none()
            && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Node {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Scalar(Scalar::quoted(text))
    }

    pub(crate) fn bool(value: bool) -> Self {
        Self::Scalar(Scalar { text: value.to_string(), plain: true, tag: None })
    }

    pub(crate) fn number(value: u32) -> Self {
        Self::Scalar(Scalar { text: value.to_string(), plain: true, tag: None })
    }

    pub(crate) fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }

    pub(crate) fn map<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (Scalar::quoted(key), value)).collect())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(k, _)| k.text == key).map(|(_, value)| value)
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(scalar) if scalar.is_null())
    }

    /// A document of one mapping, list or value. None at all is null.
    pub(crate) fn parse(text: &str) -> Result<Self, YamlError> {
        Reader { events: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0, line: 1 }
            .document()
    }

    /// `theirs` over `self`: mappings by their keys, lists one after the
    /// other, ours first, and of everything else theirs. What is null in
    /// theirs leaves ours.
    pub(crate) fn merged(self, theirs: Self) -> Self {
        match (self, theirs) {
            (ours, theirs) if theirs.is_null() => ours,
            (Self::Map(mut ours), Self::Map(theirs)) => {
                for (key, value) in theirs {
                    match ours.iter_mut().find(|(k, _)| k.text == key.text) {
                        Some((_, slot)) => {
                            let before = std::mem::replace(slot, Self::List(Vec::new()));
                            *slot = before.merged(value);
                        }
                        None => ours.push((key, value)),
                    }
                }
                Self::Map(ours)
            }
            (Self::List(mut ours), Self::List(theirs)) => {
                ours.extend(theirs);
                Self::List(ours)
            }
            (_, theirs) => theirs,
        }
    }

    /// As a document of its own, ending with a line feed.
    pub(crate) fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        if !out.ends_with('\n') {
            out.push('\n');
        }
        out
    }

    /// A collection begins on a line of its own.
    fn write(&self, out: &mut String, indent: usize) {
        match self {
            Self::Scalar(scalar) => scalar.write(out),
            Self::List(items) if items.is_empty() => out.push_str("[]"),
            Self::Map(entries) if entries.is_empty() => out.push_str("{}"),
            Self::List(items) => {
                for item in items {
                    let _ = write!(out, "{:indent$}-", "");
                    item.write_inner(out, indent + 2);
                }
            }
            Self::Map(entries) => {
                for (key, value) in entries {
                    let _ = write!(out, "{:indent$}", "");
                    key.write(out);
                    out.push(':');
                    value.write_inner(out, indent + 2);
                }
            }
        }
    }

    fn write_inner(&self, out: &mut String, indent: usize) {
        let block = match self {
            Self::Scalar(_) => false,
            Self::List(items) => !items.is_empty(),
            Self::Map(entries) => !entries.is_empty(),
        };
        out.push(if block { '\n' } else { ' ' });
        self.write(out, indent);
        if !block {
            out.push('\n');
        }
    }
}

impl Scalar {
    fn write(&self, out: &mut String) {
        if let Some(tag) = &self.tag {
            let _ = write!(out, "!!{tag} ");
        }
        if self.is_null() {
            return out.push_str("null");
        }
        if self.plain && !self.text.is_empty() {
            return out.push_str(&self.text);
        }
        // YAML 1.1, 5.6 and 5.1: what is not printable, and what would be
        // taken for a line's end, is escaped.
        out.push('"');
        for c in self.text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' => out.push(c),
                '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' => out.push(c),
                c if u32::from(c) <= 0xff => {
                    let _ = write!(out, "\\x{:02x}", u32::from(c));
                }
                c if u32::from(c) <= 0xffff => {
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => {
                    let _ = write!(out, "\\U{:08x}", u32::from(c));
                }
            }
        }
        out.push('"');
    }
}

struct Reader<'a> {
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    line: usize,
}

impl<'a> Reader<'a> {
    fn document(mut self) -> Result<Node, YamlError> {
        let mut document = None;
        loop {
            match self.next()? {
                Event::StreamEnd => {
                    let null = Scalar { text: String::new(), plain: true, tag: None };
                    return Ok(document.unwrap_or(Node::Scalar(null)));
                }
                Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::Nothing => {}
                _ if document.is_some() => return Err(YamlError::Documents),
                event => document = Some(self.node(event, 0)?),
            }
        }
    }

    fn next(&mut self) -> Result<Event<'a>, YamlError> {
        match self.events.next() {
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(event)
            }
            Some(Err(error)) => Err(syntax(&error)),
            None => Ok(Event::StreamEnd),
        }
    }

    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Node, YamlError> {
        if depth > MAX_DEPTH {
            return Err(YamlError::Deep);
        }
        self.count(1)?;
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !text.contains('\n');
                let tag = self.tag(tag.as_deref())?;
                (Node::Scalar(Scalar { text: text.into_owned(), plain, tag }), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.collection(tag.as_deref(), "seq")?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => break,
                        event => items.push(self.node(event, depth + 1)?),
                    }
                }
                (Node::List(items), anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.collection(tag.as_deref(), "map")?;
                (Node::Map(self.entries(depth)?), anchor)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| self.unknown("an alias within what it names"))?;
                self.count(nodes_of(&node))?;
                return Ok(node);
            }
            other => return Err(self.unknown(format!("{other:?}"))),
        };
        if anchor > 0 {
            self.count(nodes_of(&node))?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<(Scalar, Node)>, YamlError> {
        let mut entries: Vec<(Scalar, Node)> = Vec::new();
        let mut included = Vec::new();
        loop {
            let key = match self.next()? {
                Event::MappingEnd => break,
                event => match self.node(event, depth + 1)? {
                    Node::Scalar(key) => key,
                    // Nor would Python take one.
                    _ => return Err(self.unknown("a key that is a list or a mapping")),
                },
            };
            let event = self.next()?;
            let value = self.node(event, depth + 1)?;
            if key.plain && key.text == "<<" {
                included.push(value);
            } else if let Some((_, slot)) = entries.iter_mut().find(|(k, _)| k.text == key.text) {
                *slot = value;
            } else {
                entries.push((key, value));
            }
        }
        // The type "merge" of YAML 1.1: what is not there by itself.
        for value in included {
            let maps = match value {
                Node::List(items) => items,
                other => vec![other],
            };
            for map in maps {
                let Node::Map(more) = map else {
                    return Err(self.unknown("a merge key << of what is no mapping"));
                };
                for (key, value) in more {
                    if !entries.iter().any(|(k, _)| k.text == key.text) {
                        entries.push((key, value));
                    }
                }
            }
        }
        Ok(entries)
    }

    fn count(&mut self, more: usize) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES { Err(YamlError::Large) } else { Ok(()) }
    }

    /// What PyYAML's safe loader knows, it keeps.
    fn tag(&self, tag: Option<&Tag>) -> Result<Option<String>, YamlError> {
        const KNOWN: [&str; 7] = ["str", "int", "float", "bool", "null", "binary", "timestamp"];
        match tag {
            None => Ok(None),
            Some(tag) if tag.handle == "tag:yaml.org,2002:" && KNOWN.contains(&&*tag.suffix) => {
                Ok(Some(tag.suffix.clone()))
            }
            // The non-specific tag: a string.
            Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => Ok(Some("str".to_owned())),
            Some(tag) => Err(self.unknown(format!("the tag {}{}", tag.handle, tag.suffix))),
        }
    }

    fn collection(&self, tag: Option<&Tag>, own: &str) -> Result<(), YamlError> {
        match tag {
            Some(tag) if tag.handle != "tag:yaml.org,2002:" || tag.suffix != own => {
                Err(self.unknown(format!("the tag {}{}", tag.handle, tag.suffix)))
            }
            _ => Ok(()),
        }
    }

    fn unknown(&self, what: impl Into<String>) -> YamlError {
        YamlError::Unknown { line: self.line, what: what.into() }
    }
}

fn syntax(error: &ScanError) -> YamlError {
    YamlError::Syntax { line: error.marker().line(), why: error.info().to_owned() }
}

fn nodes_of(node: &Node) -> usize {
    match node {
        Node::Scalar(_) => 1,
        Node::List(items) => 1 + items.iter().map(nodes_of).sum::<usize>(),
        Node::Map(entries) => 1 + entries.iter().map(|(_, v)| 1 + nodes_of(v)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(text: &str) -> String {
        Node::parse(text).unwrap().to_text()
    }

    #[test]
    fn what_a_value_means_is_left_to_who_reads_it() {
        let text =
            "a: yes\nb: 'yes'\nc: 0644\nd: |\n  two\n  lines\ne: ~\nf:\ng: !!binary |\n  aGk=\n";
        assert_eq!(
            again(text),
            "a: yes\nb: \"yes\"\nc: 0644\nd: \"two\\nlines\\n\"\ne: null\nf: null\n\
             g: !!binary \"aGk=\\n\"\n"
        );
        // Of itself it makes itself.
        assert_eq!(again(&again(text)), again(text));
    }

    #[test]
    fn collections_in_either_style_become_blocks() {
        let text = "list: [a, {b: c}, [], {}]\nmap: {x: 1, 'y z': \"q\\u263a\"}\n- bad";
        assert!(Node::parse(text).is_err());
        let text = text.trim_end_matches("- bad");
        let block =
            "list:\n  - a\n  -\n    b: c\n  - []\n  - {}\nmap:\n  x: 1\n  \"y z\": \"q☺\"\n";
        assert_eq!(again(text), block);
        assert_eq!(again(block), block);
    }

    #[test]
    fn aliases_and_merge_keys_are_filled_in_within_bounds() {
        let text = "base: &b {x: 1, y: 2}\nmore:\n  <<: *b\n  y: 3\nsame: *b\n";
        let block = "base:\n  x: 1\n  y: 2\nmore:\n  y: 3\n  x: 1\nsame:\n  x: 1\n  y: 2\n";
        assert_eq!(again(text), block);

        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x]\n");
        for n in 1..20 {
            let inner = format!("*a{}, ", n - 1).repeat(8);
            let _ = writeln!(laughs, "a{n}: &a{n} [{inner}]");
        }
        assert_eq!(Node::parse(&laughs), Err(YamlError::Large));
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(Node::parse(&deep).is_err());
        assert!(Node::parse("a: &a [*a]").is_err());
    }

    #[test]
    fn what_cannot_be_told_again_is_refused_with_its_line() {
        let why = |text: &str| Node::parse(text).unwrap_err().to_string();
        assert!(why("a: 1\nb: [\n").contains("line"), "{}", why("a: 1\nb: [\n"));
        assert!(why("a: 1\nb: !mine x\n").contains("line 2 the tag"), "{}", why("b: !mine x"));
        assert!(why("? [a, b]\n: c\n").contains("a key that is a list"));
        assert!(why("a: 1\n---\nb: 2\n").contains("more than one"));
        assert!(Node::parse("# nothing\n").unwrap().is_null());
    }

    #[test]
    fn theirs_is_put_over_ours() {
        let ours = Node::parse("a: [1]\nb: {x: 1, y: 1}\nc: ours\nd: [kept]\n").unwrap();
        let theirs = Node::parse("a: [2]\nb: {y: 2, z: 2}\nc: theirs\nd:\ne: new\n").unwrap();
        let merged = ours.merged(theirs).to_text();
        let wanted =
            "a:\n  - 1\n  - 2\nb:\n  x: 1\n  y: 2\n  z: 2\nc: theirs\nd:\n  - kept\ne: new\n";
        assert_eq!(merged, wanted);
    }
}
