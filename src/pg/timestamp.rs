//! A moment, to the microsecond, as PostgreSQL has it (`TimestampTz`); always UTC.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970-01-01 00:00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Not a moment that is the same everywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTimestampError {
    /// Not a date with a time.
    #[error("must be of the form \"2026-11-26 13:45:00+01\", in years 1970 to 9999")]
    Syntax,
    /// Every server would take it in its own time zone.
    #[error("it says no time zone: put \"Z\" for UTC, or an offset such as \"+01\" or \"-05:30\", behind it")]
    NoZone,
}

/// PostgreSQL counts from 2000-01-01.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800 * MICROS;
const MICROS: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// The end of year 9999.
const MAX_SECONDS: i64 = 253_402_300_799;
/// The longest text taken, in bytes.
const MAX_TEXT_LEN: usize = 64;

impl Timestamp {
    /// A moment, from microseconds since 1970; between then and the year 9999, or the nearest of these.
    pub fn from_unix_micros(micros: i64) -> Self {
        Timestamp(micros.clamp(0, MAX_SECONDS * MICROS + MICROS - 1))
    }

    /// A moment as it stands in WAL: microseconds since 2000.
    pub fn from_postgres(micros: i64) -> Self {
        Self::from_unix_micros(micros.saturating_add(POSTGRES_EPOCH_MICROS))
    }

    /// This machine's time.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// Microseconds since 1970.
    pub fn unix_micros(self) -> i64 {
        self.0
    }

    /// As a server reads it in `recovery_target_time`, whatever its time zone.
    pub fn to_postgres_text(self) -> String {
        let Civil { year, month, day, hour, minute, second, micros } = self.civil();
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}+00")
    }

    /// To the second, without punctuation: `20261126T134500Z`.
    pub fn compact(self) -> String {
        let Civil { year, month, day, hour, minute, second, .. } = self.civil();
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
    }

    fn civil(self) -> Civil {
        let (seconds, micros) = (self.0.div_euclid(MICROS), self.0.rem_euclid(MICROS));
        let (days, second) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
        // years begin in March, so that the leap day is a year's last; an era is 400 of them, 146,097 days
        let days = days + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let (year, month) = match month {
            0..=9 => (400 * era + year_of_era, month + 3),
            _ => (400 * era + year_of_era + 1, month - 9),
        };
        Civil { year, month, day, hour: second / 3600, minute: second / 60 % 60, second: second % 60, micros }
    }
}

/// The parts of a moment.
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
}

impl Civil {
    /// `None` for a day that is in no calendar.
    fn unix_micros(&self) -> Option<i64> {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let month_len = match self.month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return None,
        };
        let valid = (1970..=9999).contains(&self.year)
            && (1..=month_len).contains(&self.day)
            && (0..24).contains(&self.hour)
            && (0..60).contains(&self.minute)
            && (0..60).contains(&self.second);
        if !valid {
            return None;
        }
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let month = if self.month > 2 { self.month - 3 } else { self.month + 9 };
        let day_of_year = (153 * month + 2) / 5 + self.day - 1;
        let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let seconds = (days - 719_468) * SECONDS_PER_DAY + self.hour * 3600 + self.minute * 60 + self.second;
        Some(seconds * MICROS + self.micros)
    }
}

impl fmt::Display for Timestamp {
    /// `2026-11-26T13:45:00Z`, with six digits of a second's parts where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, hour, minute, second, micros } = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if micros > 0 {
            write!(f, ".{micros:06}")?;
        }
        f.write_str("Z")
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// A date, a time behind `T` or a space, perhaps parts of a second, and an offset.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.len() > MAX_TEXT_LEN || !text.is_ascii() {
            return Err(ParseTimestampError::Syntax);
        }
        let (date, rest) = text.split_once([' ', 'T', 't']).ok_or(ParseTimestampError::Syntax)?;
        let zone_at = rest.find(['Z', 'z', '+', '-']).ok_or(ParseTimestampError::NoZone)?;
        let (time, zone) = rest.split_at(zone_at);
        let civil = civil(date, time.trim_end()).ok_or(ParseTimestampError::Syntax)?;
        let micros = civil.unix_micros().ok_or(ParseTimestampError::Syntax)?;
        let offset = offset_seconds(zone).ok_or(ParseTimestampError::Syntax)?;
        let micros = micros - offset * MICROS;
        if (0..=MAX_SECONDS * MICROS).contains(&micros) {
            Ok(Timestamp(micros))
        } else {
            Err(ParseTimestampError::Syntax)
        }
    }
}

fn civil(date: &str, time: &str) -> Option<Civil> {
    let mut date = date.split('-');
    let (year, month, day) = (number(date.next()?, 4)?, number(date.next()?, 2)?, number(date.next()?, 2)?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.split(':');
    let (hour, minute) = (number(time.next()?, 2)?, number(time.next()?, 2)?);
    let second = time.next().map_or(Some(0), |second| number(second, 2))?;
    if date.next().is_some() || time.next().is_some() || fraction.is_empty() || fraction.len() > 6 {
        return None;
    }
    let micros = number(&format!("{fraction:0<6}"), 6)?;
    Some(Civil { year, month, day, hour, minute, second, micros })
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let digits = zone.get(1..)?;
    let (hours, minutes) = match digits.split_once(':') {
        Some((hours, minutes)) => (hours, minutes),
        None if digits.len() == 4 => digits.split_at(2),
        None => (digits, "00"),
    };
    let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
    (hours <= 15 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn number(text: &str, len: usize) -> Option<i64> {
    let valid = text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_moment_has_many_spellings() {
        let moment = Timestamp(1_795_700_700 * MICROS);
        assert_eq!(moment.to_string(), "2026-11-26T13:45:00Z");
        assert_eq!(moment.compact(), "20261126T134500Z");
        assert_eq!(moment.to_postgres_text(), "2026-11-26 13:45:00.000000+00");
        for text in [
            "2026-11-26 13:45:00Z",
            "2026-11-26T13:45:00.000z",
            "2026-11-26 13:45Z",
            "2026-11-26 14:45:00+01",
            "2026-11-26 14:45:00 +01:00",
            "2026-11-26 19:15:00+0530",
            "2026-11-26 08:15:00-05:30",
        ] {
            assert_eq!(text.parse(), Ok(moment), "{text}");
        }
        assert_eq!(Timestamp::from_postgres(0).to_string(), "2000-01-01T00:00:00Z");
        assert_eq!(
            "2000-02-29 00:00:00.25Z".parse::<Timestamp>().unwrap().to_string(),
            "2000-02-29T00:00:00.250000Z"
        );
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        use ParseTimestampError::{NoZone, Syntax};
        for (text, error) in [
            ("2026-11-26 13:45:00", NoZone),
            ("2026-11-26", Syntax),
            ("", Syntax),
            ("2026-02-29 00:00:00Z", Syntax),
            ("2026-13-01 00:00:00Z", Syntax),
            ("2026-11-26 24:00:00Z", Syntax),
            ("2026-11-26 13:45:00.Z", Syntax),
            ("2026-11-26 13:45:00.1234567Z", Syntax),
            ("2026-11-26 13:45:00+1", Syntax),
            ("1969-12-31 23:59:59Z", Syntax),
            ("yesterday 13:45Z", Syntax),
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn print_and_parse_round_trip(micros in 0..MAX_SECONDS * MICROS) {
            let moment = Timestamp::from_unix_micros(micros);
            prop_assert_eq!(moment.to_string().parse(), Ok(moment));
            prop_assert_eq!(moment.to_postgres_text().parse(), Ok(moment));
        }

        #[test]
        fn anything_is_taken_without_harm(text in ".{0,70}") {
            let _ = text.parse::<Timestamp>();
        }
    }
}
