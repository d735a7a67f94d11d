//! What has to hold, always and in the end.

use super::{App, Machine, Proc, World};

impl World {
    /// What holds after every single step.
    pub(super) fn check(&mut self) {
        for index in self.living() {
            let waits = self.waits_for(index).is_some();
            match &self.procs[index].machine {
                Machine::Incumbent(m) => {
                    let idle = m.accepts() && m.successor().is_none();
                    let ends = m.is_gone() || m.has_only_tasks();
                    assert!(waits || idle || ends, "{index} waits without a deadline: {m:?}");
                }
                Machine::Successor(m) => {
                    assert!(waits || m.can_serve_alone(), "{index} waits without a deadline: {m:?}");
                }
            }
        }
        let working = |index: &usize| self.procs[*index].app.has_hook && self.procs[*index].works;
        let working: Vec<_> = self.living().into_iter().filter(working).collect();
        assert!(working.len() <= 1, "{working:?} do what only one process may do\n{self}");
        if self.accepting().is_empty() && !self.living().is_empty() {
            let since = *self.dark.get_or_insert(self.now);
            self.gap = self.gap.max(self.now - since);
        } else {
            self.dark = None;
        }
    }

    /// What holds when nothing can happen any more: one process is there and serves, and nothing else is
    /// left.
    pub(crate) fn assert_one_serves(&self) -> usize {
        let (living, accepting) = (self.living(), self.accepting());
        assert_eq!(accepting.len(), 1, "exactly one accepts\n{self}");
        assert_eq!(living, accepting, "and no other process is left\n{self}");
        self.assert_clean();
        let machine = self.incumbent(living[0]).expect("it serves");
        assert!(machine.accepts() && self.procs[living[0]].holds, "{self}");
        assert!(machine.successor().is_none() && machine.predecessors().is_empty(), "{self}");
        assert_eq!(machine.deadline(), None);
        living[0]
    }

    /// Nothing is on its way, nothing is held.
    pub(crate) fn assert_clean(&self) {
        for side in self.links.iter().flatten() {
            assert!(side.queue.is_empty() && side.holders.is_empty(), "a link leaked\n{self}");
        }
        for index in self.living() {
            let process = &self.procs[index];
            assert!(process.pending.is_empty() && process.link.is_none(), "{self}");
            assert!(process.predecessors.is_empty(), "{self}");
        }
    }

    /// A whole handoff works from here, whatever other processes are left.
    pub(crate) fn assert_handoff_while_others_drain(&mut self) {
        let next = self.join(App::default());
        self.run();
        assert_eq!(self.accepting(), [next], "{self}");
    }

    /// A whole handoff works, from here.
    pub(crate) fn assert_next_works(&mut self) {
        self.tamper = None;
        let before = self.assert_one_serves();
        let versions = self.procs[before].app.versions;
        self.procs[before].app = App { versions, ..App::default() };
        let generation = self.incumbent(before).expect("it serves").generation();
        let next = self.join(App { versions, ..App::default() });
        self.settle();
        assert_eq!(self.assert_one_serves(), next, "the next attempt works\n{self}");
        let later = self.incumbent(next).expect("it serves").generation();
        assert!(later > generation, "{later} after {generation}");
    }
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "said: {:?}", self.said)?;
        for (index, report) in &self.reports {
            writeln!(f, "{index} reports {}", format!("{report:?}").replace("Process {", "{"))?;
        }
        for (index, process) in self.procs.iter().enumerate() {
            let Proc { alive, accepting, holds, link, predecessors, pending, failed, .. } = process;
            writeln!(
                f,
                "{index}: alive {alive}, accepting {accepting}, holds {holds}, failed {failed:?}, \
                 pending {pending:?}"
            )?;
            writeln!(f, "   {:?} link {link:?} predecessors {predecessors:?}", self.state(index))?;
            if *alive {
                writeln!(f, "   {:?}", process.machine)?;
            }
        }
        writeln!(f, "links: {:?}", self.links)
    }
}
