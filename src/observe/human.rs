//! Sizes and times for people.

use std::time::Duration;

/// Bytes in binary units, two digits behind the point: `1.50 GiB`.
pub fn bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A span of time in its two largest units: `850 ms`, `4.2 s`, `3 min 20 s`, `5 h 12 min`, `3 d 4 h`.
pub fn duration(duration: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..MINUTE => format!("{:.1} s", duration.as_secs_f64()),
        MINUTE..HOUR => format!("{} min {} s", seconds / MINUTE, seconds % MINUTE),
        HOUR..DAY => format!("{} h {} min", seconds / HOUR, seconds % HOUR / MINUTE),
        _ => format!("{} d {} h", seconds / DAY, seconds % DAY / HOUR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_fitting_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(3 << 29), "1.50 GiB");
        let spans = [(0.85, "850 ms"), (4.24, "4.2 s"), (200.0, "3 min 20 s"), (18_720.0, "5 h 12 min")];
        for (seconds, text) in spans {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
        assert_eq!(duration(Duration::from_secs(3 * 86_400 + 4 * 3600)), "3 d 4 h");
    }
}
