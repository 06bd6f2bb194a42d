//! Times in UTC as text, for records, logs and the admin pages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-08-01T12:00:00.123Z`. Times before 1970 are shown as 1970.
pub fn rfc3339_millis(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (date, clock) = civil(since.as_secs());
    format!("{date}T{clock}.{:03}Z", since.subsec_millis())
}

/// `2026-08-01T12:00:00Z`. Times before 1970 are shown as 1970.
pub fn rfc3339_seconds(time: SystemTime) -> String {
    let (date, clock) = civil(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    format!("{date}T{clock}Z")
}

/// The proleptic Gregorian calendar counts in eras of 400 years (146,097 days); a year that starts in March
/// puts the leap day last, so that month lengths follow one linear rule.
fn civil(unix_seconds: u64) -> (String, String) {
    let days = unix_seconds / 86_400;
    let second_of_day = unix_seconds % 86_400;
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let clock =
        format!("{:02}:{:02}:{:02}", second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
    (format!("{year:04}-{month:02}-{day:02}"), clock)
}

/// Reads `2026-08-01T12:00:00Z`, with an optional fraction and `Z` or `+HH:MM` or `-HH:MM`. `None` for anything
/// else, and for times before 1970.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = bytes.get(from..to)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        std::str::from_utf8(digits).ok()?.parse().ok()
    };
    let is = |at: usize, wanted: &[u8]| bytes.get(at).is_some_and(|byte| wanted.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year < 1970 || day == 0 || day > days_of_month || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = bytes.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let padded = fraction[..digits].iter().copied().chain(std::iter::repeat(b'0')).take(9);
        nanos = padded.fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        rest = &fraction[digits..];
    }
    let (east, offset) = match rest {
        b"Z" | b"z" => (true, 0),
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = text.len() - 5;
            let (hours, minutes) = (number(at, at + 2)?, number(at + 3, at + 5)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (*sign == b'+', hours * 3_600 + minutes * 60)
        }
        _ => return None,
    };
    let months_from_march = (month + 9) % 12;
    let year_from_march = year - u64::from(month <= 2);
    let day_of_year = (153 * months_from_march + 2) / 5 + day - 1;
    let days = year_from_march * 365 + year_from_march / 4 - year_from_march / 100
        + year_from_march / 400
        + day_of_year
        - 719_468;
    let local = days * 86_400 + hour * 3_600 + minute * 60 + second;
    let utc = if east { local.checked_sub(offset)? } else { local.checked_add(offset)? };
    Some(UNIX_EPOCH + Duration::new(utc, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        assert_eq!(rfc3339_millis(UNIX_EPOCH + Duration::from_millis(1_001)), "1970-01-01T00:00:01.001Z");
    }

    #[test]
    fn reading_is_the_inverse_of_writing() {
        for seconds in (0..6_000_000_000).step_by(86_400 * 11 + 3_607) {
            let time = UNIX_EPOCH + Duration::from_millis(seconds * 1_000 + seconds % 1_000);
            assert_eq!(parse_rfc3339(&rfc3339_millis(time)), Some(time));
        }
        let noon = parse_rfc3339("2026-01-31T12:00:00Z");
        assert!(noon.is_some());
        assert_eq!(parse_rfc3339("2026-01-31T13:30:00+01:30"), noon);
        assert_eq!(parse_rfc3339("2026-01-31T10:30:00.000-01:30"), noon);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for wrong in [
            "",
            "now",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-01-00T12:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T12:00:00.Z",
            "2026-01-01T12:00:00+1:00",
            "2026-01-01T12:00:00+01:00x",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "+026-01-01T12:00:00Z",
            "2026-01-01T12:00:00\u{e9}",
        ] {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong:?}");
        }
    }
}
