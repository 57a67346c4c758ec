use std::time::Duration;

use crate::ParseError;

/// Reads `30`, `30s`, `500ms`, `5m`, `2h` or `1d`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    let refuse =
        || ParseError::new("duration", text, "is not a duration such as 30s, 500ms, 5m or 2h");
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let n: u64 = number.parse().map_err(|_| refuse())?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(refuse()),
    };
    n.checked_mul(millis_per_unit).map(Duration::from_millis).ok_or_else(refuse)
}

/// A duration as people read it: `850 ms`, `1.32 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`.
pub fn format_duration(d: Duration) -> String {
    let secs = d.as_secs();
    match secs {
        0 => format!("{} ms", d.as_millis()),
        1..60 => format!("{:.2} s", d.as_secs_f64()),
        60..3_600 => format!("{} min {} s", secs / 60, secs % 60),
        3_600..86_400 => format!("{} h {} min", secs / 3_600, secs % 3_600 / 60),
        _ => format!("{} d {} h", secs / 86_400, secs % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_unit_and_refuses_the_rest() {
        assert_eq!(parse_duration("30").unwrap(), Duration::from_secs(30));
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_duration("5m").unwrap(), Duration::from_secs(300));
        assert_eq!(parse_duration("1d").unwrap(), Duration::from_secs(86_400));
        for text in
            ["", "s", "-3s", "1.5s", "3 weeks", "99999999999999999999d", "18446744073709551615d"]
        {
            assert!(parse_duration(text).unwrap_err().to_string().contains(text), "{text}");
        }
    }

    #[test]
    fn shows_the_two_largest_units() {
        assert_eq!(format_duration(Duration::from_millis(850)), "850 ms");
        assert_eq!(format_duration(Duration::from_millis(1_320)), "1.32 s");
        assert_eq!(format_duration(Duration::from_secs(250)), "4 min 10 s");
        assert_eq!(format_duration(Duration::from_secs(7_500)), "2 h 5 min");
    }
}
