//! Any message there may be.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};

use hotupdate_proto::counts::{Counts, ProcessTotals};
use hotupdate_proto::inventory::{ConnectionState, UnreadLink};
use hotupdate_proto::message::{Generation, Message, Place, Process, Ready, Release, Released};
use hotupdate_proto::migration::Endpoint;
use hotupdate_proto::operator::PastEvent;
use hotupdate_proto::{
    ConnectionKind, ConnectionRow, LinkItem, ListenerItem, ListenerKind, MigrationItem, SocketFile,
    StateItem, Summary, Totals,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    // With quotes, backslashes, controls and astral characters; NUL is escaped in JSON.
    vec(any::<char>(), 0..12).prop_map(String::from_iter)
}

fn generation() -> impl Strategy<Value = Generation> {
    any::<u64>().prop_map(Generation)
}

fn summary() -> impl Strategy<Value = Summary> {
    any::<(u64, u64, u64)>().prop_map(|(idle, active, upgraded)| Summary::new(idle, active, upgraded))
}

fn totals() -> impl Strategy<Value = Totals> {
    any::<([u64; 7], [u64; 4])>().prop_map(|(totals, goaways)| {
        let [accepted, adopted, migrated, finished, closed, forced, requests] = totals;
        let mut totals = Totals::default();
        (totals.accepted, totals.adopted, totals.requests) = (accepted, adopted, requests);
        (totals.migrated, totals.finished) = (migrated, finished);
        (totals.closed, totals.forced) = (closed, forced);
        [
            totals.goaways.not_accepted,
            totals.goaways.streams,
            totals.goaways.client,
            totals.goaways.settings,
        ] = goaways;
        totals
    })
}

fn listener() -> impl Strategy<Value = ListenerItem> {
    let kind = prop::sample::select(vec![
        ListenerKind::Tcp,
        ListenerKind::Unix,
        ListenerKind::Udp,
        ListenerKind::UnixDatagram,
        ListenerKind::Other,
    ]);
    (text(), kind, text(), any::<u64>()).prop_map(|(name, kind, address, cookie)| ListenerItem {
        name,
        kind,
        address,
        cookie,
    })
}

fn state() -> impl Strategy<Value = StateItem> {
    (text(), text(), any::<u64>()).prop_map(|(name, schema, length)| StateItem { name, schema, length })
}

fn process() -> impl Strategy<Value = Process> {
    let parts = (text(), any::<u32>(), text(), text());
    parts.prop_map(|(instance, pid, version, name)| Process::new(instance, pid, version).named(name))
}

fn link() -> impl Strategy<Value = LinkItem> {
    (generation(), process(), summary(), any::<(bool, bool)>(), totals(), (text(), any::<u64>())).prop_map(
        |(generation, process, connections, (probation, drained), totals, (handoff, since_ms))| LinkItem {
            generation,
            process,
            features: Vec::new(),
            connections,
            probation,
            drained,
            totals,
            tasks: Vec::new(),
            handoff,
            since_ms,
        },
    )
}

fn rest() -> impl Strategy<Value = UnreadLink> {
    (generation(), text()).prop_map(|(generation, unread)| UnreadLink { generation, unread })
}

fn row() -> impl Strategy<Value = ConnectionRow> {
    let state =
        prop::sample::select(vec![ConnectionState::Idle, ConnectionState::Active, ConnectionState::Upgraded]);
    (any::<u64>(), text(), text(), text(), text(), any::<(u64, u64)>(), state).prop_map(
        |(id, listener, peer, local, protocol, (age_ms, requests), state)| {
            let mut row = ConnectionRow::default();
            (row.id, row.listener, row.protocol) = (id, listener.into(), protocol.into());
            (row.peer, row.local) = (peer.into(), local.into());
            (row.age_ms, row.requests, row.state) = (age_ms, requests, state);
            row
        },
    )
}

fn kind() -> impl Strategy<Value = ConnectionKind> {
    (text(), prop::option::of(text()), any::<u8>()).prop_map(|(kind, listener, bulk)| ConnectionKind {
        kind,
        listener,
        bulk,
    })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let with_scope = any::<(Ipv6Addr, u16, u32)>()
        .prop_map(|(ip, port, scope)| Endpoint::Ip(SocketAddrV6::new(ip, port, 0, scope).into()));
    prop_oneof![
        any::<(Ipv4Addr, u16)>().prop_map(|address| Endpoint::Ip(address.into())),
        with_scope,
        text().prop_map(|path| Endpoint::Unix(path.into())),
    ]
}

pub(crate) fn moving() -> impl Strategy<Value = MigrationItem> {
    // Several connections have the same texts.
    let words = || prop_oneof![Just(String::new()), Just("http/1.1".to_owned()), text()];
    let ends = (endpoint(), endpoint());
    (any::<[u64; 4]>(), words(), words(), words(), ends, vec(any::<u8>(), 0..12)).prop_map(
        |([id, cookie, age_ms, requests], kind, listener, protocol, (peer, local), state)| MigrationItem {
            id,
            cookie,
            kind: kind.into(),
            listener: listener.into(),
            protocol: protocol.into(),
            peer,
            local,
            age_ms,
            requests,
            state: state.into(),
        },
    )
}

fn place() -> impl Strategy<Value = Place> {
    (any::<Option<u64>>(), proptest::option::of(text()), any::<bool>()).prop_map(
        |(pid_namespace, unit, is_supervised)| Place {
            pid_namespace,
            unit: unit.map(Into::into),
            is_supervised,
        },
    )
}

fn ready() -> impl Strategy<Value = Ready> {
    let names = || vec(text(), 0..3);
    let rest = (any::<bool>(), vec(kind(), 0..3));
    (names(), names(), names(), rest).prop_map(|(adopted, bound, unclaimed, (on_command, accepts))| {
        let release = if on_command { Release::OnCommand } else { Release::Now };
        Ready { adopted, bound, unclaimed, release, accepts }
    })
}

fn released() -> impl Strategy<Value = Released> {
    let numbers = any::<(u64, u64)>();
    (
        summary(),
        numbers,
        vec(state(), 0..3),
        vec(rest(), 0..3),
        vec(past(), 0..3),
        of(counts().prop_map(Box::new)),
    )
        .prop_map(|(connections, (stopped_at_ns, within_ms), state, links, history, counts)| Released {
            connections,
            stopped_at_ns,
            within_ms,
            state,
            links,
            history,
            counts,
        })
}

fn counts() -> impl Strategy<Value = Counts> {
    let process =
        (generation(), totals()).prop_map(|(generation, totals)| ProcessTotals { generation, totals });
    (totals(), vec(process, 0..3), any::<[u64; 4]>()).prop_map(|(gone, processes, handoffs)| {
        let mut counts = Counts { gone, processes, ..Counts::default() };
        let ended = &mut counts.handoffs;
        [ended.served, ended.failed, ended.rolled_back, ended.took_over] = handoffs;
        counts
    })
}

fn past() -> impl Strategy<Value = PastEvent> {
    (text(), generation(), text(), any::<u64>())
        .prop_map(|(kind, generation, text, ago_ms)| PastEvent::new(&kind, generation, &text, ago_ms))
}

/// Any message.
pub(crate) fn message() -> impl Strategy<Value = Message> {
    let batch = any::<u32>;
    prop_oneof![
        (batch(), vec(listener(), 0..4)).prop_map(|(batch, items)| Message::Listeners { batch, items }),
        (batch(), vec(state(), 0..4)).prop_map(|(batch, items)| Message::State { batch, items }),
        (batch(), vec(link(), 0..4)).prop_map(|(batch, items)| Message::Links { batch, items }),
        batch().prop_map(|batch| Message::Control { batch }),
        batch().prop_map(|batch| Message::Received { batch }),
        text().prop_map(|what| Message::Trouble { what }),
        ready().prop_map(Message::Ready),
        released().prop_map(Message::Released),
        any::<Option<u64>>().prop_map(|gap_ns| Message::Serving { gap_ns, accepts: Vec::new() }),
        vec(row(), 0..4).prop_map(|items| Message::Connections { items }),
        (summary(), vec(any::<u64>(), 0..9), totals()).prop_map(|(connections, closed, totals)| {
            Message::Progress { connections, closed, totals, tasks: Vec::new() }
        }),
        any::<u64>().prop_map(|forced| Message::Drained { forced }),
        Just(Message::LetGo),
        any::<u64>().prop_map(|deadline_ms| Message::Hurry { deadline_ms }),
        generation().prop_map(|generation| Message::Issued { generation }),
        Just(Message::EndProbation),
        any::<u32>().prop_map(|pid| Message::Main { pid }),
        (any::<u32>(), place(), any::<bool>()).prop_map(|(pid, place, is_established)| Message::Serves {
            pid,
            place,
            is_established
        }),
        counts().prop_map(|counts| Message::Counted { counts }),
        (any::<u64>(), vec(rest(), 0..3), vec(past(), 0..3), of(counts().prop_map(Box::new)), text())
            .prop_map(|(stopped_at_ns, links, history, counts, reason)| {
                Message::Resume { stopped_at_ns, links, history, counts, reason }
            }),
        Just(Message::Farewell),
        any::<(u64, u64)>()
            .prop_map(|(device, inode)| Message::Rebound { file: SocketFile { device, inode } }),
        text().prop_map(|reason| Message::Failed { reason }),
        vec(kind(), 0..3).prop_map(|kinds| Message::Accepts { kinds }),
        Just(Message::Quiesce),
        (batch(), vec(moving(), 0..4)).prop_map(|(batch, items)| Message::Prepare { batch, items }),
        (batch(), vec(any::<u64>(), 0..4)).prop_map(|(batch, refused)| Message::Prepared { batch, refused }),
        batch().prop_map(|batch| Message::Commit { batch }),
        batch().prop_map(|batch| Message::Abort { batch }),
        Just(Message::Quiesced),
    ]
}
