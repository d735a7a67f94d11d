//! A fault at each system call of a handoff: one side is killed, frozen or lied to at the n-th call of a
//! name, and what clients and operators see is judged.
//!
//! Deliberately absent: strace(1). It counts calls by thread and by name, so the call of one thread hides
//! that of another; here calls are counted in the whole process, and those that only serve a client do not
//! count.
//!
//! # Reading order
//!
//! 1. [`case`]: which side, which call, which fault, as it is written on the command line
//! 2. [`calls`]: which calls count
//! 3. [`tracer`]: the process that stops the other one at its calls (ptrace(2)), and its log, [`trace`]
//! 4. [`clients`]: what clients speak, and the connections that they keep; [`visitor`]: those that come every
//!    few milliseconds
//! 5. [`run`]: one handoff with one fault, and [`verdict`] on it
//! 6. [`campaign`]: all of them

pub mod case;
pub use case::{Case, Fault, Point, Side};

pub mod calls;

mod registers;

pub mod tracer;

pub mod trace;
pub use trace::Trace;

pub mod clients;
pub use clients::Speaks;

pub mod visitor;

pub mod run;

pub mod verdict;

pub mod campaign;
pub use campaign::Campaign;
