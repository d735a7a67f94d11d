//! The model as the checker sees it, and what is shown of a counterexample.

use std::sync::Arc;

use hotupdate_proto::message::Release;
use hotupdate_proto::operator::Command;
use stateright::{Checker, Expectation, HasDiscoveries, Model, Path, Property};

use super::action::{Action, Options};
use super::endings::Endings;
use super::properties;
use super::world::World;

#[derive(Clone)]
pub(crate) struct Handoffs {
    pub(crate) starts: Vec<World>,
    pub(crate) options: Options,
    /// What has to be possible, or the model does not show what it is for.
    pub(crate) reaches: Vec<Property<Self>>,
    pub(crate) endings: Arc<Endings>,
}

impl Model for Handoffs {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        self.starts.clone()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(&self.options, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        if !next.act(&action, self.options.release) {
            return None;
        }
        if action.is_of_itself() {
            self.endings.step(world, &next);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = properties::always();
        all.extend(self.reaches.iter().cloned());
        all
    }
}

impl Handoffs {
    pub(crate) fn new(start: World) -> Self {
        let options =
            Options { release: Release::Now, commands: Vec::new(), failures: false, hangs: false, offers: 0 };
        Self { starts: vec![start], options, reaches: Vec::new(), endings: Arc::default() }
    }

    /// The first process has a connection, which migrates. An answer to it is late before a drain ends, or
    /// after.
    pub(crate) fn migrating(mut start: World) -> Self {
        start.moves = true;
        let mut patient = World { patient: true, ..start.clone() };
        start.first_connection();
        patient.first_connection();
        let mut handoffs = Self::new(start);
        handoffs.starts.push(patient);
        handoffs.options.offers = 2;
        handoffs
    }

    /// Operators ask for these, so often.
    pub(crate) fn orders(mut self, orders: u8, commands: &[Command]) -> Self {
        self.starts.iter_mut().for_each(|start| start.orders = orders);
        self.options.commands = commands.to_vec();
        self
    }

    pub(crate) fn on_command(mut self) -> Self {
        self.options.release = Release::OnCommand;
        self
    }

    pub(crate) fn prompt(mut self) -> Self {
        self.starts.iter_mut().for_each(|start| start.prompt = true);
        self
    }

    pub(crate) fn failures(mut self) -> Self {
        (self.options.failures, self.options.hangs) = (true, true);
        self
    }

    pub(crate) fn reaches(mut self, name: &'static str, condition: fn(&Self, &World) -> bool) -> Self {
        self.reaches.push(Property::sometimes(name, condition));
        self
    }

    /// Looks at every state.
    #[allow(clippy::print_stdout, reason = "how many states there are is a result")]
    pub(crate) fn check(self, name: &str) {
        let endings = self.endings.clone();
        // Breadth first: a counterexample is as short as can be. It stops at the first.
        let checker = self.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        println!("{name}: states: {} unique, {} deep", checker.unique_state_count(), checker.max_depth());
        let found = checker
            .model()
            .properties()
            .into_iter()
            .map(|property| (checker.discovery(property.name).map(Path::into_vec), property));
        let (failures, wishes): (Vec<_>, Vec<_>) =
            found.partition(|(_, property)| matches!(property.expectation, Expectation::Always));
        let failures = failures.into_iter().filter_map(|(path, property)| Some((path?, property)));
        if let Some((path, property)) = failures.min_by_key(|(path, _)| path.len()) {
            let mut story = String::new();
            for (number, (world, action)) in path.into_iter().enumerate() {
                story += &format!("{world}");
                story += &action.map_or(String::new(), |action| format!("{number:3}. {action:?}\n"));
            }
            panic!("{name}:\n{story}{name}: does not hold: {}", property.name);
        }
        for (path, property) in wishes {
            assert!(path.is_some(), "{name}: never comes about: {}", property.name);
        }
        endings.assert_all_end(name);
    }
}
