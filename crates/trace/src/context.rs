//! Where in which trace something happens, as W3C's Trace Context puts it
//! (<https://www.w3.org/TR/trace-context/>, 3.2): `version-trace-span-flags`,
//! in lower-case hexadecimal digits.

use std::fmt;
use std::str::FromStr;

/// Of all that one request leads to. Never all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// Never all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub trace: TraceId,
    pub span: SpanId,
    /// Whether whoever began the trace records it.
    pub sampled: bool,
}

impl Context {
    /// Of a span below this one; of the first of a trace, where there is none.
    /// `None` without randomness.
    pub(crate) fn following(parent: Option<Self>) -> Option<Self> {
        let span = SpanId(random()?);
        Some(match parent {
            Some(parent) => Self { span, ..parent },
            None => Self { trace: TraceId(random()?), span, sampled: true },
        })
    }
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok()?;
    // The one value in 2^64 that stands for none.
    bytes[N - 1] |= u8::from(bytes == [0; N]);
    Some(bytes)
}

/// Why a `traceparent` is none. Whoever gets one goes on without it (3.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoContext;

impl fmt::Display for NoContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "is no traceparent such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
    }
}

impl std::error::Error for NoContext {}

impl FromStr for Context {
    type Err = NoContext;

    fn from_str(text: &str) -> Result<Self, NoContext> {
        let mut fields = text.split('-');
        let mut field = || fields.next().ok_or(NoContext);
        let (version, trace, span, flags) = (field()?, field()?, field()?, field()?);
        let [version] = bytes(version)?;
        // A later version may have more, and begins with the same (3.2.1).
        if version == 0xff || (version == 0 && fields.next().is_some()) {
            return Err(NoContext);
        }
        let [flags] = bytes(flags)?;
        let (trace, span) = (bytes(trace)?, bytes(span)?);
        if trace == [0; 16] || span == [0; 8] {
            return Err(NoContext);
        }
        Ok(Self { trace: TraceId(trace), span: SpanId(span), sampled: flags & 1 == 1 })
    }
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], NoContext> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(NoContext),
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return Err(NoContext);
    }
    for (byte, two) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(two[0])? << 4 | digit(two[1])?;
    }
    Ok(bytes)
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read_as_it_is_written() {
        let context: Context = GOOD.parse().unwrap();
        assert!(context.sampled);
        assert_eq!(context.to_string(), GOOD);
        let later = GOOD.replacen("00", "cc", 1) + "-more";
        assert_eq!(later.parse(), Ok(context), "of a later version");
    }

    #[test]
    fn what_is_none_is_refused() {
        let bad = [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902bé-01",
        ];
        for bad in bad {
            assert_eq!(bad.parse::<Context>(), Err(NoContext), "{bad}");
        }
    }

    #[test]
    fn what_follows_is_of_the_same_trace() {
        let first = Context::following(None).unwrap();
        let next = Context::following(Some(first)).unwrap();
        assert_eq!((next.trace, next.sampled), (first.trace, true));
        assert_ne!(next.span, first.span);
        assert_eq!(first.to_string().parse(), Ok(first));
    }
}
