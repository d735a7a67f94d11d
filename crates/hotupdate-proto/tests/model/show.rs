//! A state in a few lines, to read a counterexample by.

use std::fmt;

use super::kernel::Said;
use super::process::{Process, Role};
use super::world::World;

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (p, process) in self.living() {
            let Process { accepting, holds, control_open, warming, stopping, draining, hangs, .. } = process;
            let role = match &process.role {
                Role::Successor(machine) => format!("successor, {}", machine.process_state()),
                Role::Incumbent(machine) => {
                    format!("generation {}, {}", machine.generation(), machine.process_state())
                }
                other => format!("{other:?}"),
            };
            let flags = [
                (*accepting, "accepts"),
                (*holds, "listeners"),
                (*control_open, "control socket"),
                (*warming, "warms up"),
                (*stopping, "stops"),
                (*draining, "drains"),
                (*hangs, "hangs"),
            ];
            let flags: Vec<_> = flags.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag).collect();
            let waits = process.waits_for().map(|deadline| format!(" [{deadline:?}]")).unwrap_or_default();
            writeln!(f, "       {p}: {role}{waits}: {}", flags.join(", "))?;
            if self.moves {
                let connections = &process.connections;
                writeln!(f, "          serves {:?}, leaving {:?}", connections.serves, connections.leaving)?;
            }
        }
        for (link, queues) in self.links.iter().enumerate() {
            for (side, queue) in queues.queues.iter().enumerate().filter(|(_, queue)| !queue.is_empty()) {
                let names = queue.iter().map(|said| match said {
                    Said::Join(_) => "join",
                    Said::Reply(Ok(_)) => "joined",
                    Said::Reply(Err(_)) => "refused",
                    Said::Message(message, _) => message.name(),
                });
                writeln!(f, "       to {link}.{side}: {}", names.collect::<Vec<_>>().join(", "))?;
            }
        }
        Ok(())
    }
}
