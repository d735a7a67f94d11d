//! The two machines against each other, in a pretended world with a virtual clock.
//!
//! Each run ends with the same oracle: no process waits without a deadline (checked after every step),
//! exactly one process accepts when nothing can happen any more, nothing is left on a link, and the next
//! handoff works.

mod world;

mod straight;

mod refusals;

mod deadlines;

mod hook;

mod commands;
mod crash_loop;

mod generations;

mod migration;

mod rollback;
mod signals;

mod rebinding;

mod violations;

mod crossing;

mod orphans;

mod faults;

mod random;
