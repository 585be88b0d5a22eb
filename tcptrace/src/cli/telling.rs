//! Owns `Telling`: what becomes of the steps of a trace, live or recorded. The same steps give the
//! same output.

use std::io;

use tcptrace_model::{Finding, Settings, TcpState, Tracker};

use super::pace::{Pace, Spared};
use crate::{
    record::{Ending, Step},
    render::{End, Render, Start, notice},
};

/// The model and the output.
pub(super) struct Telling {
    tracker: Tracker,
    renderer: Box<dyn Render>,
    /// Transitions into and out of these are shown; all when there are none.
    states: Vec<TcpState>,
    /// Calls that succeeded are shown, even those that nobody wonders about.
    calls: bool,
    shown: u64,
    /// What a terminal that is too slow is spared.
    pace: Pace,
}

impl Telling {
    /// Nothing has been told yet. With `verbose`, calls that succeed are shown as well.
    pub(super) fn new(
        settings: Settings,
        renderer: Box<dyn Render>,
        states: Vec<TcpState>,
        verbose: bool,
    ) -> Self {
        Self {
            tracker: Tracker::new(settings),
            renderer,
            states,
            calls: verbose,
            shown: 0,
            pace: Pace::default(),
        }
    }

    /// Takes how long ago what comes next has happened, in ns, where a person's terminal shows it: one that does not
    /// keep up is spared some of it, and told so.
    pub(super) fn keep_up(&mut self, age_ns: u64) -> io::Result<()> {
        match self.pace.tells(age_ns) {
            Some(spared) => self.tell_spared(spared),
            None => Ok(()),
        }
    }

    /// Tells that it begins, at once.
    pub(super) fn start(&mut self, start: &Start) -> io::Result<()> {
        self.renderer.start(start)?;
        self.renderer.flush()
    }

    /// Takes the next step and tells what there is to tell.
    pub(super) fn step(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Input(input) => self.tracker.handle(input),
            Step::Tick { now_ns } => self.tracker.advance(*now_ns),
            Step::End(ending) => self.tracker.finish(ending.ts_ns),
        }
        while let Some(finding) = self.tracker.poll() {
            self.tell(&finding)?;
        }
        match *step {
            Step::Input(_) | Step::Tick { now_ns: _ } => Ok(()),
            Step::End(Ending { ts_ns, duration_ns }) => {
                if let Some(spared) = self.pace.ends() {
                    self.tell_spared(spared)?;
                }
                self.renderer.end(&End {
                    ts_ns,
                    duration_ns,
                    shown: self.shown,
                    summary: self.tracker.summary(),
                })
            }
        }
    }

    /// After what was shown.
    fn tell_spared(&mut self, spared: Spared) -> io::Result<()> {
        self.renderer.flush()?;
        notice::say(spared);
        Ok(())
    }

    /// How many transitions have been shown.
    pub(super) fn shown(&self) -> u64 {
        self.shown
    }

    /// Hands everything told so far to the reader.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.renderer.flush()
    }

    fn tell(&mut self, finding: &Finding) -> io::Result<()> {
        match finding {
            Finding::Transition(found) => {
                let transition = &found.transition;
                let wanted = |state| self.states.contains(state);
                if !self.states.is_empty()
                    && !wanted(&transition.oldstate)
                    && !wanted(&transition.newstate)
                {
                    return Ok(());
                }
                if self.pace.spares(finding) {
                    return Ok(());
                }
                self.shown += 1;
                return self.renderer.finding(finding);
            }
            Finding::CallSucceeded(found) => {
                // Nobody means to listen on a port that the kernel chose.
                let odd = found.autobound || found.after_failed_bind.is_some();
                if !odd && !self.calls {
                    return Ok(());
                }
            }
            Finding::TimeWaitEntered(_)
            | Finding::TimeWait(_)
            | Finding::Connection(_)
            | Finding::Story(_)
            | Finding::Stuck(_)
            | Finding::CallFailed(_)
            | Finding::Lost(_) => {}
        }
        if self.pace.spares(finding) {
            return Ok(());
        }
        self.renderer.finding(finding)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        io::Write,
        rc::Rc,
    };

    use tcptrace_model::{Input, SocketCall, conflict::Call};

    use super::*;
    use crate::{
        record::{samples, write::Recorder},
        render::{json::Json, text::Text},
        source::replay::Replay,
    };

    /// Bytes that are still there when their writer is gone.
    #[derive(Clone, Default)]
    struct Kept(Rc<RefCell<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Kept {
        fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    /// Counts findings.
    struct Counting(Rc<Cell<usize>>);

    impl Render for Counting {
        fn start(&mut self, _start: &Start) -> io::Result<()> {
            Ok(())
        }

        fn finding(&mut self, _finding: &Finding) -> io::Result<()> {
            self.0.set(self.0.get() + 1);
            Ok(())
        }

        fn end(&mut self, _end: &End) -> io::Result<()> {
            Ok(())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn told(
        start: &Start,
        settings: Settings,
        steps: &[Step],
        states: &[TcpState],
        renderer: impl FnOnce(Kept) -> Box<dyn Render>,
    ) -> String {
        let kept = Kept::default();
        let mut telling = Telling::new(settings, renderer(kept.clone()), states.to_vec(), true);
        telling.start(start).unwrap();
        for step in steps {
            telling.step(step).unwrap();
        }
        telling.flush().unwrap();
        kept.text()
    }

    #[test]
    fn what_was_recorded_is_told_as_it_was_live() {
        let opening = samples::opening();
        let steps = samples::steps();
        let mut file = Vec::new();
        let mut recorder = Recorder::begin(&mut file, &opening).unwrap();
        for step in &steps {
            recorder.step(step).unwrap();
        }
        recorder.flush().unwrap();
        let mut replay = Replay::open(&file[..]).unwrap();
        let again = replay.opening().clone();
        let mut steps_again = Vec::new();
        while let Some(step) = replay.next_step().unwrap() {
            steps_again.push(step);
        }

        let offset_ns = opening.start.clock_offset_ns;
        for states in [&[][..], &[TcpState::Close]] {
            for json in [true, false] {
                let renderer = |kept: Kept| -> Box<dyn Render> {
                    if json {
                        Box::new(Json::new(kept, offset_ns))
                    } else {
                        let notices = kept.clone();
                        Box::new(Text::new(kept, notices, samples::layout(), offset_ns))
                    }
                };
                let live = told(&opening.start, opening.settings, &steps, states, renderer);
                let replayed = told(&again.start, again.settings, &steps_again, states, renderer);
                assert!(live.lines().count() > 3, "{live}");
                assert_eq!(replayed, live);
            }
        }
    }

    #[test]
    fn the_version_told_is_that_of_the_recorder() {
        let mut opening = samples::opening();
        opening.start.version = "0.0.9".to_owned();
        let line = told(&opening.start, opening.settings, &[], &[], |kept| {
            Box::new(Json::new(kept, 0))
        });
        assert!(line.contains(r#""version":"0.0.9""#), "{line}");
    }

    #[test]
    fn calls_that_succeed_are_told_when_asked_for_or_when_nobody_meant_them() {
        let mut call = samples::steps()
            .into_iter()
            .find_map(|step| match step {
                Step::Input(Input::Call(call)) => Some(call),
                Step::Input(_) | Step::Tick { now_ns: _ } | Step::End(_) => None,
            })
            .unwrap();
        call.error = 0;
        let lines = |call: SocketCall, verbose| {
            let told = Rc::new(Cell::new(0));
            let renderer = Box::new(Counting(told.clone()));
            let mut telling = Telling::new(Settings::default(), renderer, Vec::new(), verbose);
            telling.step(&Step::Input(Input::Call(call))).unwrap();
            told.get()
        };
        assert_eq!(lines(call, false), 0);
        assert_eq!(lines(call, true), 1);
        // listen() without a bind(): the kernel chooses a port.
        call.call = Call::Listen;
        assert_eq!(lines(call, false), 1);
        call.asker.local.set_port(8000);
        assert_eq!(lines(call, false), 0);
    }

    #[test]
    fn a_state_that_was_not_asked_for_is_not_counted_as_shown() {
        let opening = samples::opening();
        let renderer = || Box::new(Json::new(Vec::new(), 0));
        let mut all = Telling::new(opening.settings, renderer(), Vec::new(), false);
        let mut some = Telling::new(opening.settings, renderer(), vec![TcpState::Listen], false);
        for step in samples::steps() {
            all.step(&step).unwrap();
            some.step(&step).unwrap();
        }
        assert!(all.shown() > 0);
        assert_eq!(some.shown(), 0);
    }
}
