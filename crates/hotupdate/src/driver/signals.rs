//! What signals come to, and the successor that one of them starts.
//!
//! Deliberately absent: which signals mean what, see [`crate::process::signal`].

use std::io;
use std::process::{Child, ExitStatus};
use std::time::Instant;

use hotupdate_proto::operator;

use super::{Driver, Role, TaskResult};
use crate::error::{Error, ErrorKind};
use crate::lifecycle::Lifecycle;
use crate::process::signal::Signal;
use crate::process::spawn;
use crate::settings::random_hex;

impl Driver {
    pub(super) async fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Successor => self.start_successor(),
            Signal::Stop if self.exiting => drop(self.lifecycle.send_replace(Lifecycle::Drained)),
            Signal::Stop => match &mut self.role {
                Role::Incumbent(machine) => {
                    if let Ok(effects) = machine.command(Instant::now(), operator::Command::Terminate) {
                        self.perform(effects).await;
                    }
                }
                _ => {
                    self.give_up(Error::new(ErrorKind::Cancelled, "becoming ready", "stopped by a signal"))
                        .await
                }
            },
        }
    }

    pub(super) fn start_successor(&mut self) {
        let Some(program) = &self.program else { return };
        let path = program.path().display().to_string();
        let attempt = random_hex();
        match program.start(&attempt) {
            Err(error) => {
                tracing::error!(path, %error, "the successor cannot be started; this process serves on")
            }
            Ok(child) => {
                tracing::info!(path, pid = child.id(), "started a successor");
                let back = self.done.0.clone();
                tokio::spawn(async move {
                    let status = spawn::ended(&child).await;
                    let _ = back.send(TaskResult::Child { child, attempt, status }).await;
                });
            }
        }
    }

    pub(super) fn child_ended(&mut self, mut child: Child, attempt: &str, status: io::Result<ExitStatus>) {
        let pid = child.id();
        let failed = status.as_ref().is_ok_and(|status| !status.success());
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        if failed && self.is_main_process(pid) {
            // systemd hears of the end of a process as its parent, which it is when we are gone: nobody else waits for it.
            return tracing::error!(
                pid,
                how,
                "the new version has ended; systemd learns it when this process has drained"
            );
        }
        // It fails if the application waits for all of its children; then that one is done.
        let _ = child.try_wait();
        let joined =
            self.last_failure.as_ref().is_some_and(|failure| failure.attempt.as_deref() == Some(attempt));
        if *self.lifecycle.borrow() == Lifecycle::Serving && !joined {
            tracing::error!(pid, how, "the successor ended before it served; this process serves on");
        }
    }
}
