//! What time it is.
//!
//! Owns where the schedule's time comes from, and how long one may sleep without missing that
//! somebody set the clock. Knows no job.
//!
//! For tests of the whole program the variable `FLEDGLING_TEST_CLOCK` names a file that says
//! `FAKE REAL SPEED`: at the real unix time REAL it was FAKE, and from then on time goes SPEED
//! times as fast. It does no harm: only the owner sets the environment of a host, and could as
//! well set the machine's clock.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The longest sleep: a suspended machine and a clock that is set are noticed so soon.
const LONGEST: Duration = Duration::from_secs(30);

/// The shortest: should something be due that cannot be done, nothing spins.
const SHORTEST: Duration = Duration::from_millis(100);

/// Both while a file says what time it is.
const SIMULATED: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(20)];

/// The clock of the schedule.
#[derive(Debug, Clone)]
pub struct Clock {
    simulated: Option<PathBuf>,
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl Clock {
    /// The machine's, or what a test put in its place.
    pub fn system() -> Self {
        Self { simulated: std::env::var_os("FLEDGLING_TEST_CLOCK").map(PathBuf::from) }
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        let real = Timestamp::now();
        self.simulated.as_deref().and_then(|file| simulated(file, real)).unwrap_or(real)
    }

    /// The zone of this machine, as it is set now.
    #[expect(clippy::unused_self, reason = "who asks for the time asks the clock for the zone")]
    pub fn zone(&self) -> TimeZone {
        TimeZone::system()
    }

    /// How long to sleep when something is due then.
    pub fn nap(&self, due: Option<Timestamp>) -> Duration {
        let [shortest, longest] =
            if self.simulated.is_some() { SIMULATED } else { [SHORTEST, LONGEST] };
        let left = due.map(|due| due.duration_since(self.now()));
        let left = left.map(|left| Duration::try_from(left).unwrap_or_default());
        left.unwrap_or(longest).clamp(shortest, longest)
    }
}

/// What the file says; nothing when it says nothing sensible.
fn simulated(file: &Path, real: Timestamp) -> Option<Timestamp> {
    let text = std::fs::read_to_string(file).ok()?;
    let numbers: Option<Vec<f64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    let &[fake, began, speed] = numbers?.as_slice() else { return None };
    let now = fake + (real.as_duration().as_secs_f64() - began) * speed;
    let now = jiff::SignedDuration::try_from_secs_f64(now).ok()?;
    Timestamp::from_duration(now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_time_it_is_and_anything_else_is_the_machines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let clock = Clock { simulated: Some(file.path().to_owned()) };
        let real = Timestamp::now();
        for nothing in ["", "1 2", "1 2 x", "1 2 3 4", "inf 0 1", "1e300 0 1", "nan 1 1"] {
            std::fs::write(file.path(), nothing).unwrap();
            assert!(clock.now() >= real, "{nothing}");
        }
        std::fs::write(file.path(), "1000.5 2000 0\n").unwrap();
        assert_eq!(clock.now().as_millisecond(), 1_000_500);
        std::fs::write(file.path(), "1000 2000 60").unwrap();
        let then = Timestamp::from_second(2010).unwrap();
        assert_eq!(simulated(file.path(), then).unwrap().as_second(), 1600);
        assert_eq!(clock.nap(None), SIMULATED[1]);
        let gone = Clock { simulated: Some(file.path().with_extension("gone")) };
        assert!(gone.now() >= real);
    }

    #[test]
    fn sleep_is_short_and_never_spins() {
        let clock = Clock { simulated: None };
        assert_eq!(clock.nap(None), LONGEST);
        assert_eq!(clock.nap(Some(Timestamp::MAX)), LONGEST);
        assert_eq!(clock.nap(Some(Timestamp::MIN)), SHORTEST);
        assert_eq!(clock.nap(Some(Timestamp::UNIX_EPOCH)), SHORTEST);
    }
}
