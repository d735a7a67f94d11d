//! The two machines against each other, in a pretended world with a virtual clock.
//!
//! Each run ends with the same oracle: nobody waits without a deadline (checked after every step), exactly one process
//! accepts when nothing can happen any more, nothing is left on a link, and the next handoff works.

#[path = "pair/world.rs"]
mod world;

#[path = "pair/straight.rs"]
mod straight;

#[path = "pair/refusals.rs"]
mod refusals;

#[path = "pair/deadlines.rs"]
mod deadlines;

#[path = "pair/hook.rs"]
mod hook;

#[path = "pair/commands.rs"]
mod commands;

#[path = "pair/generations.rs"]
mod generations;

#[path = "pair/rollback.rs"]
mod rollback;

#[path = "pair/violations.rs"]
mod violations;

#[path = "pair/crossing.rs"]
mod crossing;

#[path = "pair/orphans.rs"]
mod orphans;

#[path = "pair/faults.rs"]
mod faults;

#[path = "pair/random.rs"]
mod random;
