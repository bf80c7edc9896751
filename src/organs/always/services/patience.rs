//! When a service that ended is started again.
//!
//! Owns the one rule for it: after 1 s, and twice as long after each end that follows, until it
//! has run well, which is for a minute. Five ends in a row, which takes little more than five
//! minutes at most, are no bad luck: it is in quarantine, and the owner and the agent are told
//! once. An end is an end: a service is to run for good, so that exit code 0 is no excuse.
//!
//! A quarantine ends when the file changes or somebody asks for another start. Until then it
//! is tried once an hour: what had no network for a night may come back by itself, and such a
//! try costs nothing worth mentioning. Should that run well, the quarantine is over, too.
//!
//! Knows no clock: times come from outside.

use std::time::Duration;

/// Who runs for so long before it ends runs well.
pub const WELL: Duration = Duration::from_secs(60);
/// So many ends in a row are too many.
pub const ENDS: u32 = 5;
/// The wait after the first end.
const FIRST: Duration = Duration::from_secs(1);
/// The wait in quarantine.
pub const QUARANTINE: Duration = Duration::from_secs(60 * 60);

/// What is known of a service's ends.
#[derive(Debug, Clone, Default)]
pub struct Patience {
    /// Ends in a row.
    row: u32,
}

/// What is to be done after an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Wait so long, and start it.
    Again(Duration),
    /// The same, but it is in quarantine.
    Quarantine {
        /// How long.
        wait: Duration,
        /// Whether it was not before, so that somebody has to be told.
        fresh: bool,
    },
}

impl Patience {
    /// It ended, having run for so long.
    pub fn ended(&mut self, ran: Duration) -> Next {
        if ran >= WELL {
            self.pardon();
        }
        self.row = self.row.saturating_add(1);
        if self.row >= ENDS {
            return Next::Quarantine { wait: QUARANTINE, fresh: self.row == ENDS };
        }
        Next::Again(FIRST * 2_u32.pow(self.row - 1))
    }

    /// All is forgotten: its file changed, or somebody wants it to be tried.
    pub fn pardon(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUICK: Duration = Duration::from_millis(20);

    /// What follows when it runs so long each time.
    fn course(runs: &[Duration]) -> Vec<Next> {
        let mut patience = Patience::default();
        runs.iter().map(|ran| patience.ended(*ran)).collect()
    }

    fn again(seconds: u64) -> Next {
        Next::Again(Duration::from_secs(seconds))
    }

    fn quarantine(fresh: bool) -> Next {
        Next::Quarantine { wait: QUARANTINE, fresh }
    }

    #[test]
    fn who_ends_again_and_again_waits_longer_and_is_told_of_once() {
        let expected =
            [again(1), again(2), again(4), again(8), quarantine(true), quarantine(false)];
        assert_eq!(course(&[QUICK; 6]), expected);
    }

    #[test]
    fn who_runs_well_starts_afresh() {
        assert_eq!(course(&[QUICK, QUICK, WELL, QUICK]), [again(1), again(2), again(1), again(2)]);
        assert_eq!(course(&[WELL; 100]), [again(1); 100]);
        // Even from quarantine.
        let mut runs = [QUICK; 8];
        runs[6] = WELL;
        let expected = [quarantine(true), quarantine(false), again(1), again(2)];
        assert_eq!(course(&runs)[4..], expected);
    }

    #[test]
    fn a_pardon_forgets_everything() {
        let mut patience = Patience::default();
        (0..7).for_each(|_| _ = patience.ended(QUICK));
        patience.pardon();
        assert_eq!(patience.ended(QUICK), again(1));
    }

    proptest! {
        #[test]
        fn whatever_happens_it_is_not_started_too_often_and_told_of_once(
            runs in prop::collection::vec(0_u64..120_000, 0..200)
        ) {
            let runs: Vec<_> = runs.into_iter().map(Duration::from_millis).collect();
            let (mut told, mut brief, mut last) = (false, 0, FIRST);
            for (next, ran) in course(&runs).into_iter().zip(runs) {
                if ran >= WELL {
                    (told, brief, last) = (false, 0, FIRST);
                }
                brief += 1;
                match next {
                    Next::Again(wait) => {
                        prop_assert!(!told && brief < ENDS && wait >= last);
                        last = wait;
                    }
                    Next::Quarantine { wait, fresh } => {
                        prop_assert!(brief >= ENDS && wait == QUARANTINE && fresh != told);
                        told = true;
                    }
                }
            }
        }
    }
}
