//! The clock, and the chip that keeps it while the machine is off.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::time::{ClockId, Timespec, clock_settime};

use super::ioctls::{self, RtcTime};

const RTC: &str = "/dev/rtc0";

/// Sets both; a machine without such a chip has nothing to keep.
pub(crate) fn set(since_epoch: Duration) -> io::Result<()> {
    set_kernel(since_epoch)?;
    if let (Ok(rtc), Some(time)) = (
        rustix::fs::open(RTC, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()),
        rtc_time(since_epoch.as_secs()),
    ) {
        let _read_only_chip = ioctls::set_rtc(rtc.as_fd(), time);
    }
    Ok(())
}

/// Not the chip, which is slow to write.
pub(super) fn set_kernel(since_epoch: Duration) -> io::Result<()> {
    let time = Timespec {
        tv_sec: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: since_epoch.subsec_nanos().into(),
    };
    clock_settime(ClockId::Realtime, time)?;
    Ok(())
}

const DAY: u64 = 24 * 60 * 60;

/// By Howard Hinnant's days_from_civil, inverted ("chrono-Compatible Low-Level
/// Date Algorithms"): years that begin in March have their odd day at the end.
fn rtc_time(unix_s: u64) -> Option<RtcTime> {
    let (days, second) = (unix_s / DAY, unix_s % DAY);
    // From 0000-03-01, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    let int = |value: u64| i32::try_from(value).ok();
    Some(RtcTime {
        second: int(second % 60)?,
        minute: int(second / 60 % 60)?,
        hour: int(second / 3600)?,
        day: int(day)?,
        month: int(month)?,
        year: int(year.checked_sub(1900)?)?,
        // 1970-01-01 was a Thursday. The chip's driver reads neither.
        week_day: int((days + 4) % 7)?,
        year_day: 0,
        summer: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn civil(unix_s: u64) -> (i32, i32, i32, i32, i32, i32, i32) {
        let t = rtc_time(unix_s).unwrap();
        (t.year + 1900, t.month + 1, t.day, t.hour, t.minute, t.second, t.week_day)
    }

    #[test]
    fn dates() {
        // As date -u -d @N +'%F %T %w' says.
        assert_eq!(civil(0), (1970, 1, 1, 0, 0, 0, 4));
        assert_eq!(civil(951_782_399), (2000, 2, 28, 23, 59, 59, 1));
        assert_eq!(civil(951_782_400), (2000, 2, 29, 0, 0, 0, 2));
        assert_eq!(civil(1_709_251_199), (2024, 2, 29, 23, 59, 59, 4));
        assert_eq!(civil(4_107_542_400), (2100, 3, 1, 0, 0, 0, 1));
        assert_eq!(rtc_time(u64::MAX), None);
    }
}
