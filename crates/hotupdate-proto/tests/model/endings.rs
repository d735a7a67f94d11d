//! That everything ends: no state is ever reached again by messages and deadlines alone.
//!
//! The checker's own `eventually` misses cycles, so each step that comes about of itself is noted; without a
//! cycle among them every course comes to a stand, and where it stands is a property of single states, as
//! `properties.rs` has them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use super::world::World;

#[derive(Debug, Default)]
pub(crate) struct Endings {
    steps: Mutex<HashMap<u64, Vec<u64>>>,
}

impl Endings {
    pub(crate) fn step(&self, from: &World, to: &World) {
        let (from, to) = (fingerprint(from), fingerprint(to));
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).entry(from).or_default().push(to);
    }

    /// Takes away what nothing leads to, again and again; a cycle is what is left.
    pub(crate) fn assert_all_end(&self, name: &str) {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let mut led_to: HashMap<u64, usize> = steps.keys().map(|from| (*from, 0)).collect();
        for to in steps.values().flatten() {
            *led_to.entry(*to).or_default() += 1;
        }
        let mut free: Vec<_> = led_to.iter().filter(|(_, n)| **n == 0).map(|(state, _)| *state).collect();
        let mut taken = 0;
        while let Some(state) = free.pop() {
            taken += 1;
            for to in steps.get(&state).into_iter().flatten() {
                let left = led_to.get_mut(to).expect("it was counted");
                *left -= 1;
                if *left == 0 {
                    free.push(*to);
                }
            }
        }
        let left = led_to.len() - taken;
        assert_eq!(
            left, 0,
            "{name}: {left} states come again by messages and deadlines alone: this never ends"
        );
    }
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}
