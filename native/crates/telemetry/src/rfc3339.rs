//! Times in UTC as text, for records, logs and the admin pages.

use std::time::{SystemTime, UNIX_EPOCH};

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
}
