//! Whether a run is as it has to be: no client is turned away that the victim did not have, one process
//! serves, hotctl says so, nothing is left behind, and the next handoff works.
//!
//! Deliberately absent: exceptions for a slow machine. A bound that is too short is changed here, for all
//! cases.

use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use syscalls::Sysno;

use super::case::{Fault, Side};
use super::run::{Record, SLOW};
use super::trace::Phase;
use super::visitor::Visit;
use crate::process::Exit;
use crate::steady::Fate;

/// How long a visitor may wait for an answer, beyond a freeze: much more than any step of a handoff takes,
/// under a tracer, on a machine that has much else to do.
const BOUND: Duration = Duration::from_secs(5);

/// Clocks are read before and after what they are to tell.
const BLUR: Duration = Duration::from_millis(100);

/// From being connected to being accepted by a process that is not busy.
const ACCEPTED: Duration = Duration::from_millis(300);

/// What is in the directory of a control socket.
const FILES: [&str; 3] = ["control.sock", "control.sock.lock", "logs"];

/// Everything that is wrong.
#[must_use]
pub fn complaints(record: &Record) -> Vec<String> {
    let mut all = Vec::new();
    all.extend(who_serves(record));
    all.extend(what_hotctl_said(record));
    all.extend(visits(record));
    all.extend(kept_connections(record));
    all.extend(what_is_left(record));
    all.extend(the_next(record));
    all
}

/// The longest wait of a visitor that was answered.
#[must_use]
pub fn longest_wait(record: &Record) -> Duration {
    record.visits.iter().filter(|visit| visit.result.is_ok()).map(Visit::waited).max().unwrap_or_default()
}

fn who_serves(record: &Record) -> Option<String> {
    let Record { case, harm, old, new, owner, .. } = record;
    let expected = match (case.side.takes(), case.fault, harm) {
        (true, Fault::Kill, Some(_)) => *old,
        (false, Fault::Kill, _) | (_, _, None) | (_, Fault::Short, _) => *new,
        _ if passes(record) => *new,
        _ if owner == old || owner == new => return None,
        _ => return Some(format!("{owner} serves, which is neither of the two")),
    };
    (*owner != expected).then(|| format!("{owner} serves, and not {expected}"))
}

/// What is over in a moment means "slow down", and never that the other side is gone.
fn passes(record: &Record) -> bool {
    const PASSING: [Errno; 4] = [Errno::EINTR, Errno::ENOBUFS, Errno::ENOMEM, Errno::ETOOMANYREFS];
    let Fault::Error(errno) = record.case.fault else { return false };
    matches!(record.case.at.call, Sysno::sendmsg | Sysno::recvmsg) && PASSING.contains(&errno)
}

/// Its exit code, and the one line that says which process serves.
fn what_hotctl_said(record: &Record) -> Vec<String> {
    let Record { said, served, old, new, owner, harm, trace, case, .. } = record;
    let mut wrong = Vec::new();
    let last = said.error_line();
    let (was, good) = match case.side.is_of_rollback() {
        true => ("v2", format!("{new} (v1) serves again")),
        false => ("v1", format!("{new} (v2) serves now")),
    };
    match said.exit {
        Exit::Status(0) => {
            if !said.stdout.contains(&good) && !last.contains(&good) {
                wrong.push(format!("hotctl does not say that {new} serves: {:?} {last:?}", said.stdout));
            }
            let killed = case.fault == Fault::Kill && case.side.takes() && harm.is_some();
            if killed && trace.sent("serving").is_none() {
                wrong.push(format!(
                    "hotctl says that the successor served, which it never did: {:?}",
                    said.stdout
                ));
            }
            if owner == old
                && case.fault == Fault::Kill
                && format!("{} {last}", said.stdout).contains(&format!("{old} ({was}) has exited"))
            {
                wrong.push(format!("hotctl says that {old} has exited, and it serves: {last:?}"));
            }
            // A lie of the kernel, or a pause, may undo it later.
            let undone = matches!(case.fault, Fault::Error(_) | Fault::Freeze(_)) && *served;
            if !killed && !undone && owner != new {
                wrong.push(format!("hotctl says that {new} serves: {:?}", said.stdout));
            }
        }
        // It stood still for longer than hotctl waits.
        Exit::Status(4)
            if frozen(record)
                && last.ends_with(&format!("{old} ({was}) served before, and does not answer")) => {}
        Exit::Status(1 | 4) => {
            let pid = |words: &str| {
                last.rsplit_once("; ")?.1.strip_suffix(words)?.split(' ').next()?.parse::<u32>().ok()
            };
            let told = pid(" is still serving").or_else(|| pid(" serves now"));
            if told != Some(*owner) {
                wrong.push(format!("{owner} serves, and hotctl says: {last:?}"));
            }
        }
        other => wrong.push(format!("hotctl ended with {other:?}: {last:?}")),
    }
    wrong
}

fn visits(record: &Record) -> Vec<String> {
    let mut wrong = Vec::new();
    for visit in &record.visits {
        match &visit.result {
            Ok(_) => {
                let waited = visit.waited();
                if waited > BOUND && !waited_for_the_frozen(record, visit) {
                    wrong.push(format!("a visitor waited {waited:?} ({})", when(record, visit)));
                }
            }
            Err(why) if !went_down_with_the_victim(record, visit) => {
                wrong.push(format!("a visitor failed: {why} ({})", when(record, visit)));
            }
            Err(_) => {}
        }
    }
    let more = wrong.len().saturating_sub(5);
    wrong.truncate(5);
    if more > 0 {
        wrong.push(format!("and {more} visitors more"));
    }
    wrong
}

fn when(record: &Record, visit: &Visit) -> String {
    let Some((harm, _)) = record.harm else { return "without a fault".to_owned() };
    let relative = |at: SystemTime| match at.duration_since(harm) {
        Ok(after) => format!("{after:?} after"),
        Err(before) => format!("{:?} before", before.duration()),
    };
    format!("it came {} the fault, left {} it", relative(visit.begun), relative(visit.ended))
}

/// A client of a frozen process, or of a service of which no other process is left, waits until it goes on.
fn waited_for_the_frozen(record: &Record, visit: &Visit) -> bool {
    let (Fault::Freeze(time), Some((_, thaw))) = (record.case.fault, record.harm) else { return false };
    visit.begun <= thaw && visit.waited() <= time + BOUND
}

fn frozen(record: &Record) -> bool {
    !record.case.side.takes() && matches!(record.case.fault, Fault::Freeze(_))
}

/// A victim that stood still while it drained, or that was to take what drains: nothing is waited for longer
/// than the deadline of the drain.
fn too_late_to_drain(record: &Record) -> bool {
    let (Fault::Freeze(_), Some((harm, _))) = (record.case.fault, record.harm) else { return false };
    let committed = match record.case.side.takes() {
        true => record.trace.sent("serving"),
        false => record.trace.received("serving"),
    };
    committed.is_some_and(|committed| committed <= harm)
}

/// A request that the victim had, or that waited in a queue which died with it.
fn went_down_with_the_victim(record: &Record, visit: &Visit) -> bool {
    let Some((harm, end)) = record.harm else { return false };
    if frozen(record) && too_late_to_drain(record) {
        return visit.begun < harm && visit.ended >= end;
    }
    if record.case.fault != Fault::Kill {
        return false;
    }
    if visit.ended + BLUR < harm {
        return false;
    }
    if record.first_start && record.case.side == Side::Incumbent {
        // Between the two no process listens on the address.
        let served = record
            .visits
            .iter()
            .filter(|visit| visit.result == Ok(record.new))
            .map(|visit| visit.ended)
            .min();
        return served.is_some_and(|served| visit.begun < served + BLUR && visit.begun < end + BOUND);
    }
    if visit.begun > end {
        return false;
    }
    match record.case.side.takes() {
        // It takes connections from its release on; requests that were with the other one stay there, and so
        // do their connections, unless they are relayed.
        true => {
            let released = record.trace.received(record.case.side.begins_with());
            released.is_some_and(|released| {
                visit.begun + ACCEPTED > released || !record.trace.relayed().is_empty()
            })
        }
        // From here on connections are the other one's.
        false => record.trace.received("serving").is_none_or(|serving| visit.begun < serving + BLUR),
    }
}

fn kept_connections(record: &Record) -> Vec<String> {
    let (lost, kept): (Vec<_>, Vec<_>) = record.kept.iter().partition(|(_, fate)| **fate == Fate::Ended);
    let may_be_lost = lost_with_the_victim(record);
    let mut wrong = Vec::new();
    let wrongly: Vec<_> =
        lost.iter().map(|(client, _)| client.as_str()).filter(|it| !may_be_lost.contains(it)).collect();
    if !wrongly.is_empty() {
        let (how_many, all, phases) = (wrongly.len(), record.kept.len(), record.trace.migrations());
        wrong.push(format!(
            "{how_many} of {all} kept connections were lost that the victim did not have: {wrongly:?}; it \
             had {may_be_lost:?}, according to {phases:?}"
        ));
    }
    // One call failed.
    if matches!(record.case.fault, Fault::Error(_)) && lost.len() > 1 {
        wrong.push(format!("one call failed, and {} kept connections were lost", lost.len()));
    }
    let silent = kept.iter().filter(|(_, fate)| **fate == Fate::Waits).count();
    if silent > 0 {
        wrong.push(format!("{silent} of {} kept connections get no answer", record.kept.len()));
    }
    wrong
}

/// The kept connections that have no other server than the victim, by what it has sent and received before
/// the fault. A migration is a two-phase commit: the one that gives a connection closes it when it receives
/// `prepared`; the one that takes it serves it on `commit`, or when the other one dies.
fn lost_with_the_victim(record: &Record) -> Vec<&str> {
    let Record { case, trace, kept, harm, .. } = record;
    if harm.is_none() {
        return Vec::new();
    }
    let (phases, relayed) = (trace.migrations(), trace.relayed());
    let has_no_other_server = |client: &&str| {
        let phase = phases.get(*client);
        let has_taken = matches!(phase, Some(Phase::Prepared | Phase::Commit));
        match (case.side.takes(), case.fault) {
            (true, Fault::Kill) => has_taken,
            // What the other process has received, it serves; but not the requests that were open.
            (false, Fault::Kill) => phase.is_none() || relayed.contains(*client),
            // What is left with the process that drains is closed at its deadline, which passes meanwhile: a
            // process that stands still takes nothing, and gives nothing.
            (true, Fault::Freeze(_)) => too_late_to_drain(record) && !has_taken,
            // An answer that the process which drains has received and slept over comes too late: it takes
            // its connections back.
            (false, Fault::Freeze(_)) => {
                too_late_to_drain(record) && (phase != Some(&Phase::Commit) || relayed.contains(*client))
            }
            // What cannot be registered is refused; the process that drains closes it after a while.
            (true, Fault::Error(_)) => case.at.call == Sysno::epoll_ctl && phase.is_some(),
            _ => false,
        }
    };
    kept.keys().map(String::as_str).filter(has_no_other_server).collect()
}

fn what_is_left(record: &Record) -> Vec<String> {
    let mut wrong = Vec::new();
    if record.files != FILES {
        wrong.push(format!("in the directory of the control socket: {:?}", record.files));
    }
    if !record.left.is_empty() {
        wrong.push(format!("these processes are left: {:?}", record.left));
    }
    let legitimate = record.case.side == Side::Incumbent && record.trace.sent("control").is_none();
    if record.first_start && !(legitimate && record.case.fault == Fault::Kill) {
        wrong.push("the successor started afresh, although it held the inventory".to_owned());
    }
    wrong
}

fn the_next(record: &Record) -> Vec<String> {
    let mut wrong = Vec::new();
    if record.next.exit != Exit::Status(0) {
        wrong.push(format!("the next handoff fails ({:?}): {}", record.next.exit, record.next.error_line()));
    } else if record.last == record.owner {
        wrong.push("the next handoff changed nothing".to_owned());
    }
    // A later visitor is answered by the process that serves then.
    let late = record.visits.iter().filter(|visit| visit.takes < SLOW).max_by_key(|visit| visit.begun);
    let answer = late.map(|visit| visit.result.clone());
    if !matches!(answer, Some(Ok(pid)) if pid == record.owner || pid == record.last) {
        wrong.push(format!("{} serves in the end, and the last visitor got {answer:?}", record.last));
    }
    wrong
}
