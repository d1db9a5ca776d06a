//! References whose counts move with the calls are followed over a few calls more.

use leaktight_verdict::Judge;

use super::Run;
use crate::budget::Spent;
use crate::check::Error;
use crate::places::{self, Suspect, Watched, Watching};
use crate::references::CloseLook;
use crate::room::with_room;
use crate::subject::Subject;

impl<S: Subject> Run<'_, S> {
    /// A close look at objects whose counts have moved with the calls, over two more rows of calls. It may take half
    /// of the time that is left.
    pub(super) fn follow_references(&mut self, spent: Option<Spent>) -> Result<(), Error<S::Error>> {
        const LEAST: u32 = 4;
        self.unfollowed = false;
        let acquits_up_to = if self.calls < self.clean_at { 0 } else { self.period };
        while let Some(mut look) = self.references.suspect(acquits_up_to) {
            // The close look begins with counts of this moment.
            with_room(|| self.references.look(self.calls));
            let left = self.calls_left();
            let asked: u32 = look.windows.iter().sum();
            let share = f64::from(left.min(asked)) / f64::from(asked);
            let windows = look.windows.map(|calls| (f64::from(calls) * share) as u32);
            look.is_short = share < 1.0;
            if spent.is_some() || windows[0] < LEAST {
                self.unfollowed = true;
                return Ok(());
            }
            if !self.look_closely(&mut look) {
                self.unfollowed = true;
                return Ok(());
            }
            for calls in windows {
                let spent = self.call_until(self.calls + calls)?;
                self.come_to_rest();
                if spent.is_some() || !self.look_closely(&mut look) {
                    self.references.abandon(&look, self.subject);
                    self.unfollowed = true;
                    return Ok(());
                }
            }
            let is_known = with_room(|| self.references.conclude(look, self.subject, &mut self.control));
            self.settle();
            self.watch_references()?;
            if !is_known {
                self.unfollowed = true;
                return Ok(());
            }
        }
        Ok(())
    }

    /// A few calls with the counts of objects watched whose references are miscounted, to see who does it. As long as
    /// there is none, it costs nothing.
    fn watch_references(&mut self) -> Result<(), Error<S::Error>> {
        while let Some(suspects) = self.references.unwatched() {
            let calls = places::calls_for(&suspects).min(self.calls_left().saturating_sub(1));
            if calls < places::LEAST_CALLS {
                self.references.not_watched(&suspects, places::NO_CALLS);
                continue;
            }
            match self.watch(&suspects, calls)? {
                Ok(watched) => self.references.watched(&suspects, watched),
                Err(why) => self.references.not_watched(&suspects, &why),
            }
        }
        Ok(())
    }

    /// Whether all that moves is known to be lost, and a few calls more, with the counts watched, have shown it being lost
    /// where it was before.
    pub(super) fn are_lost_again(&mut self) -> Result<bool, Error<S::Error>> {
        let Some(suspects) = self.references.lost_before() else {
            return Ok(false);
        };
        if self.calls_left() <= places::FEWEST_CALLS {
            return Ok(false);
        }
        let watched = self.watch(&suspects, places::FEWEST_CALLS)?;
        Ok(watched.is_ok_and(|watched| with_room(|| self.references.lost_again(&suspects, watched, self.subject))))
    }

    /// Makes calls with the counts of these objects watched; otherwise says why that cannot be.
    fn watch(&mut self, suspects: &[Suspect], calls: u32) -> Result<Result<Watched, String>, Error<S::Error>> {
        let first = self.calls + 1;
        // Fills the caches that settling has emptied: some hold thousands of references to `None` then. Where they are
        // to be seen being lost again, that is not needed: if it disturbs they are proved anew.
        if calls > places::FEWEST_CALLS {
            self.next_call()?;
        }
        let mut watching = match with_room(|| Watching::start(suspects, &self.session)) {
            Ok(watching) => watching,
            Err(why) => return Ok(Err(why)),
        };
        while watching.wants_more(calls) && self.budget.spent(0).is_none() {
            watching.next_call();
            self.next_call()?;
        }
        let mut watched = watching.end();
        self.settle();
        watched.settled();
        // Not before: the collector writes to some counts thousands of times.
        if (first..=self.calls).any(Judge::wants_checkpoint) {
            self.checkpoint();
        }
        Ok(Ok(watched))
    }

    /// Says whether there was the time for it.
    fn look_closely(&mut self, look: &mut CloseLook) -> bool {
        self.references
            .look_closely(look, self.calls, &self.budget, self.subject)
            .is_ok()
    }
}
