//! Anything that a process may say, in any sense or none.

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use hotupdate_proto::counts::Counts;
use hotupdate_proto::incumbent::Local;
use hotupdate_proto::inventory::UnreadLink;
use hotupdate_proto::message::{Generation, Place, Process, Ready, Release, Released, Versions};
use hotupdate_proto::{
    ConnectionKind, Fault, LinkItem, ListenerItem, ListenerKind, Message, SocketFile, Summary, Timing, Totals,
};

/// Numbers that mean something, and the largest.
pub(super) fn number(u: &mut Unstructured<'_>) -> Result<u32> {
    Ok(match u.int_in_range(0..=9)? {
        9 => u32::MAX,
        small => small,
    })
}

pub(super) fn generation(u: &mut Unstructured<'_>) -> Result<Generation> {
    number(u).map(|number| Generation(number.into()))
}

pub(super) fn process(u: &mut Unstructured<'_>) -> Result<Process> {
    let pid = number(u)?;
    Ok(Process::new(format!("{pid:032x}"), pid, String::new()))
}

pub(super) fn fault(u: &mut Unstructured<'_>) -> Result<Fault> {
    Ok(match u.int_in_range(0..=3)? {
        0 => Fault::PeerMisbehaved("not a message".to_owned()),
        1 => Fault::Local("out of descriptors".to_owned()),
        _ => Fault::PeerGone,
    })
}

/// A wait of any length, most often a sensible one.
fn wait(u: &mut Unstructured<'_>) -> Result<Duration> {
    Ok(match u.int_in_range(0..=7)? {
        0 => Duration::ZERO,
        1 => Duration::MAX,
        2 => Duration::from_millis(1),
        _ => Duration::from_secs(5),
    })
}

pub(super) fn local(u: &mut Unstructured<'_>) -> Result<Local> {
    let timing = if u.arbitrary()? {
        Timing::default()
    } else {
        Timing::default()
            .reply(wait(u)?)
            .batch(wait(u)?)
            .lease(wait(u)?)
            .standby(wait(u)?)
            .stop(wait(u)?)
            .serving(wait(u)?)
            .released(wait(u)?)
            .probation(wait(u)?)
            .drain(wait(u)?)
            .force(wait(u)?)
            .resume(wait(u)?)
            .hurry(wait(u)?)
    };
    let versions = Versions { min: 2, max: 3 };
    let max_draining = u.int_in_range(0..=3)?;
    let process = Process::new("0".repeat(32), 1, "v1".to_owned());
    Ok(Local { process, versions, features: vec!["migrate".to_owned()], timing, max_draining })
}

pub(super) fn link(u: &mut Unstructured<'_>) -> Result<LinkItem> {
    let [probation, drained] = u.arbitrary()?;
    Ok(LinkItem {
        generation: generation(u)?,
        process: process(u)?,
        features: Vec::new(),
        connections: summary(u)?,
        probation,
        drained,
        totals: Totals::default(),
        tasks: Vec::new(),
        handoff: String::new(),
        since_ms: 0,
    })
}

fn summary(u: &mut Unstructured<'_>) -> Result<Summary> {
    Ok(Summary::new(number(u)?.into(), 0, u64::MAX))
}

fn rests(u: &mut Unstructured<'_>) -> Result<Vec<UnreadLink>> {
    several(u, 3, |u| Ok(UnreadLink { generation: generation(u)?, unread: String::new() }))
}

fn several<'a, T>(
    u: &mut Unstructured<'a>,
    most: u32,
    one: impl Fn(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=most)?).map(|_| one(u)).collect()
}

/// None, or some.
pub(super) fn kinds(u: &mut Unstructured<'_>) -> Result<Vec<ConnectionKind>> {
    several(u, 1, |_| Ok(ConnectionKind::new("http/1.1", None)))
}

pub(super) fn ready(u: &mut Unstructured<'_>) -> Result<Ready> {
    let release = if u.arbitrary()? { Release::OnCommand } else { Release::Now };
    Ok(Ready { release, accepts: kinds(u)?, ..Ready::default() })
}

pub(super) fn message(u: &mut Unstructured<'_>) -> Result<Message> {
    Ok(match u.int_in_range(0..=25)? {
        0 => {
            let kind = ListenerKind::Other;
            let item = ListenerItem { name: "http".to_owned(), kind, address: String::new(), cookie: 0 };
            // A few of the largest batches are more than a process may offer.
            let items = if u.ratio(1, 16)? { vec![item; 20_000] } else { vec![item] };
            Message::Listeners { batch: number(u)?, items }
        }
        1 => Message::State { batch: number(u)?, items: Vec::new() },
        2 => Message::Links { batch: number(u)?, items: several(u, 3, link)? },
        3 => Message::Control { batch: number(u)? },
        4 => Message::Trouble { what: "no license yet".to_owned() },
        5 => Message::Received { batch: number(u)? },
        6 => Message::Ready(ready(u)?),
        7 => Message::Released(Released { links: rests(u)?, ..Released::default() }),
        8 => Message::Serving { gap_ns: None, accepts: Vec::new() },
        9 => Message::Connections { items: Vec::new() },
        10 if u.arbitrary()? => Message::Quiesce,
        10 => Message::Accepts { kinds: kinds(u)? },
        11 => Message::Prepare { batch: number(u)?, items: Vec::new() },
        12 => Message::Prepared { batch: number(u)?, refused: Vec::new() },
        13 => Message::Commit { batch: number(u)? },
        14 => Message::Abort { batch: number(u)? },
        15 => Message::Quiesced,
        16 => Message::Progress {
            connections: summary(u)?,
            closed: Vec::new(),
            totals: Totals::default(),
            tasks: Vec::new(),
        },
        17 => Message::Drained { forced: number(u)?.into() },
        18 => Message::LetGo,
        19 => Message::Hurry { deadline_ms: if u.arbitrary()? { u64::MAX } else { number(u)?.into() } },
        20 => Message::Issued { generation: generation(u)? },
        21 if u.arbitrary()? => {
            Message::Serves { pid: number(u)?, place: Place::default(), is_established: u.arbitrary()? }
        }
        21 if u.arbitrary()? => Message::Counted { counts: Counts::default() },
        21 if u.arbitrary()? => Message::Main { pid: number(u)? },
        21 => Message::EndProbation,
        22 => {
            let (links, history, reason) = (rests(u)?, Vec::new(), String::new());
            Message::Resume { stopped_at_ns: 0, links, history, counts: None, reason }
        }
        23 => Message::Farewell,
        24 => Message::Rebound { file: SocketFile { device: 1, inode: 2 } },
        _ => Message::Failed { reason: "because".to_owned() },
    })
}
