//! The one loop: what is due, and what came.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, BufRead as _, Write as _};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, bail};
use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::client::{self, Answer, Came, Client, Phase};
use super::samples::{self, Kind, Outcome, Sample};
use super::{Load, now};

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

/// Between two messages of a raw stream.
const BEAT: u64 = 50 * MILLISECOND;

/// An answer that has not come by then is lost.
const PATIENCE: u64 = 5 * SECOND;

/// Paced connections that are open from the begin; more are opened when all of them wait.
const SPARE: usize = 40;

/// A connection that cannot be opened is tried again after this time.
const AGAIN: u64 = 10 * MILLISECOND;

/// Connections opened at a time, below the queue of a listener.
const AT_ONCE: usize = 64;

/// What standard input and the timer are called among the clients.
const COMMANDS: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// What is due at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Paced,
    Fresh,
    /// This client sends, if it is still the same.
    Send(usize, u32),
    /// A client of this kind connects again.
    Connect(Kind),
}

/// Reads commands from standard input: `ask` lets the idle clients ask, `release` ends the raw streams,
/// `stop` ends everything. Says `ready`, and how many raw streams there are, when everything runs.
pub(crate) fn run(load: &Load) -> anyhow::Result<()> {
    let mut state = State::new(load)?;
    state.open_all()?;
    let mut out = io::stdout().lock();
    writeln!(out, "ready {}", load.streams)?;
    out.flush()?;
    while state.stop_at.is_none_or(|at| now() < at && state.is_waiting()) {
        state.turn()?;
    }
    state.give_up();
    samples::write(&load.samples, &state.samples)
}

struct State<'a> {
    load: &'a Load,
    request: Vec<u8>,
    epoll: OwnedFd,
    /// Exact to microseconds: the timeout of epoll_wait(2) is not.
    timer: OwnedFd,
    timer_at: u64,
    events: Vec<epoll::Event>,
    /// With a count that tells clients apart which had the same place.
    clients: Vec<(u32, Option<Client>)>,
    free: Vec<usize>,
    /// Paced connections without a request, the longest unused first.
    quiet: VecDeque<usize>,
    /// Paced requests for which no connection was free.
    backlog: VecDeque<u64>,
    due: BinaryHeap<Reverse<(u64, Due)>>,
    samples: Vec<Sample>,
    /// The idle clients were told to ask.
    has_asked: bool,
    stop_at: Option<u64>,
}

impl<'a> State<'a> {
    fn new(load: &'a Load) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, io::stdin(), epoll::EventData::new_u64(COMMANDS), epoll::EventFlags::IN)
            .context("commands come through a pipe")?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        Ok(Self {
            load,
            request: client::request(&load.path),
            epoll,
            timer,
            timer_at: 0,
            events: Vec::with_capacity(256),
            clients: Vec::new(),
            free: Vec::new(),
            quiet: VecDeque::new(),
            backlog: VecDeque::new(),
            due: BinaryHeap::new(),
            samples: Vec::with_capacity(200_000),
            has_asked: false,
            stop_at: None,
        })
    }

    /// Opens what stays open; the idle clients have had an answer.
    fn open_all(&mut self) -> anyhow::Result<()> {
        let load = self.load;
        while self.samples.len() < load.idle {
            let before = self.samples.len();
            let some = AT_ONCE.min(load.idle - before);
            (0..some).for_each(|_| self.connect(Kind::Idle, Some(now())));
            let until = now() + PATIENCE;
            while self.samples.len() < before + some {
                self.turn()?;
                if until < now() {
                    bail!("{} idle clients have no answer", before + some - self.samples.len());
                }
            }
        }
        if let Some(failed) = self.samples.iter().find(|sample| sample.outcome != Outcome::Answered) {
            bail!("an idle client has no connection: {failed:?}");
        }
        (0..load.streams).for_each(|_| self.connect(Kind::Raw, None));
        (0..SPARE).for_each(|_| self.connect(Kind::Paced, None));
        (0..load.closed).for_each(|_| self.connect(Kind::Closed, Some(now())));
        let begin = now() + 10 * MILLISECOND;
        if load.paced > 0 {
            self.due.push(Reverse((begin, Due::Paced)));
        }
        if load.fresh > 0 {
            self.due.push(Reverse((begin, Due::Fresh)));
        }
        Ok(())
    }

    // ---- what happens -------------------------------------------------------------------------------------

    fn turn(&mut self) -> anyhow::Result<()> {
        while let Some(&Reverse((at, what))) = self.due.peek()
            && at <= now()
        {
            self.due.pop();
            self.act(at, what);
        }
        let next = self.due.peek().map_or(now() + SECOND, |Reverse((at, _))| *at);
        self.wake_at(next)?;
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for clients"),
        }
        for event in &events {
            match event.data.u64() {
                COMMANDS => self.command()?,
                // It is set to another moment before the next wait.
                TIMER => self.timer_at = 0,
                client => self.hear(client),
            }
        }
        self.events = events;
        Ok(())
    }

    fn wake_at(&mut self, at: u64) -> anyhow::Result<()> {
        if self.timer_at != at {
            let moment = Timespec {
                tv_sec: i64::try_from(at / SECOND).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(at % SECOND).unwrap_or(0),
            };
            let never = Timespec { tv_sec: 0, tv_nsec: 0 };
            let timer = Itimerspec { it_interval: never, it_value: moment };
            timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &timer)?;
            self.timer_at = at;
        }
        Ok(())
    }

    fn command(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        match line.trim() {
            "ask" => self.ask(),
            "release" => self.release(),
            // The end of the pipe, too: the program that measures is gone.
            "stop" | "" => {
                self.release();
                self.due.clear();
                self.backlog.clear();
                self.stop_at = Some(now() + PATIENCE);
                epoll::delete(&self.epoll, io::stdin())?;
            }
            other => bail!("{other:?} is no command"),
        }
        Ok(())
    }

    /// The idle clients ask, one after the other.
    fn ask(&mut self) {
        self.has_asked = true;
        let (begin, each) = (now(), SECOND / self.load.ask.max(1));
        let idle = |client: &Client| client.kind == Kind::Idle;
        let all = self.clients.iter().enumerate();
        let idle = all.filter_map(|(index, (count, client))| {
            client.as_ref().is_some_and(idle).then_some((index, *count))
        });
        for (nth, (index, count)) in (0..).zip(idle) {
            self.due.push(Reverse((begin + nth * each, Due::Send(index, count))));
        }
    }

    /// The raw streams end, and so do idle clients that have asked: their connections have lived on.
    fn release(&mut self) {
        for index in 0..self.clients.len() {
            match &self.clients[index].1 {
                Some(client) if client.kind == Kind::Raw => self.remove(index),
                Some(Client { kept: Some(sample), .. }) => {
                    self.samples.push(*sample);
                    self.remove(index);
                }
                _ => {}
            }
        }
    }

    fn act(&mut self, at: u64, what: Due) {
        match what {
            Due::Paced => {
                self.due.push(Reverse((at + SECOND / self.load.paced, Due::Paced)));
                match self.quiet.pop_front() {
                    Some(index) => self.send(index, at),
                    None => {
                        self.backlog.push_back(at);
                        self.connect(Kind::Paced, None);
                    }
                }
            }
            Due::Fresh => {
                self.due.push(Reverse((at + SECOND / self.load.fresh, Due::Fresh)));
                self.connect(Kind::Fresh, Some(at));
            }
            Due::Send(index, count) => {
                let (now_count, client) = &self.clients[index];
                if *now_count == count && client.as_ref().is_some_and(|client| client.phase == Phase::Quiet) {
                    self.send(index, at);
                }
            }
            Due::Connect(kind) => self.connect(kind, (kind == Kind::Closed).then_some(at)),
        }
    }

    fn hear(&mut self, name: u64) {
        let (index, count) = ((name & u64::from(u32::MAX)) as usize, (name >> 32) as u32);
        let (now_count, Some(client)) = &mut self.clients[index] else { return };
        if *now_count != count {
            return;
        }
        match client.phase {
            Phase::Connecting(intended) if client.connected().is_ok() => {
                let data = epoll::EventData::new_u64(name);
                // It is registered.
                let _ = epoll::modify(&self.epoll, client.stream(), data, epoll::EventFlags::IN);
                self.opened(index, intended);
            }
            Phase::Connecting(intended) => {
                let kind = client.kind;
                self.remove(index);
                self.failed_to_open(kind, intended);
            }
            phase => match client.receive() {
                Came::Part => {}
                Came::End => self.ended(index, phase),
                Came::Answer(answer) => self.answered(index, phase, answer),
            },
        }
    }

    // ---- a client -----------------------------------------------------------------------------------------

    fn connect(&mut self, kind: Kind, intended: Option<u64>) {
        let address = if kind == Kind::Raw { self.load.raw } else { self.load.http };
        let Ok(client) = Client::connect(kind, address, intended) else {
            return self.failed_to_open(kind, intended);
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.clients.push((0, None));
            self.clients.len() - 1
        });
        let data = epoll::EventData::new_u64(index as u64 | u64::from(self.clients[index].0) << 32);
        // The kernel has memory for one more.
        if epoll::add(&self.epoll, client.stream(), data, epoll::EventFlags::OUT).is_ok() {
            self.clients[index].1 = Some(client);
        }
    }

    fn remove(&mut self, index: usize) {
        let (count, client) = &mut self.clients[index];
        if client.take().is_some() {
            *count = count.wrapping_add(1);
            self.free.push(index);
            self.quiet.retain(|quiet| *quiet != index);
        }
    }

    fn failed_to_open(&mut self, kind: Kind, intended: Option<u64>) {
        if let Some(at) = intended {
            self.failed(kind, Outcome::Refused, at);
        }
        if self.stop_at.is_none() && matches!(kind, Kind::Closed | Kind::Paced) {
            self.due.push(Reverse((now() + AGAIN, Due::Connect(kind))));
        }
    }

    fn opened(&mut self, index: usize, intended: Option<u64>) {
        let (count, Some(client)) = &mut self.clients[index] else { return };
        client.phase = Phase::Quiet;
        match (client.kind, intended) {
            (_, Some(at)) => self.send(index, at),
            (Kind::Paced, None) => self.is_free(index),
            (Kind::Raw, None) => {
                // Not all at the same moment.
                let at = now() + BEAT * (index as u64 % 16) / 16;
                self.due.push(Reverse((at, Due::Send(index, *count))));
            }
            _ => {}
        }
    }

    /// A paced connection can be used.
    fn is_free(&mut self, index: usize) {
        match self.backlog.pop_front() {
            Some(at) => self.send(index, at),
            None => self.quiet.push_back(index),
        }
    }

    fn send(&mut self, index: usize, at: u64) {
        let Some(client) = &mut self.clients[index].1 else { return };
        let kind = client.kind;
        if client.send(at, &self.request).is_err() {
            // No byte of it was taken: its client knows that the connection was closed before.
            self.failed(kind, Outcome::ClosedBefore, at);
            self.remove(index);
            if matches!(kind, Kind::Closed | Kind::Paced) {
                self.connect(kind, Some(at));
            }
        }
    }

    fn answered(&mut self, index: usize, phase: Phase, answer: Answer) {
        let (count, Some(client)) = &mut self.clients[index] else { return };
        let (kind, count) = (client.kind, *count);
        client.phase = Phase::Quiet;
        let Phase::Waiting(at) = phase else {
            // An answer to no question.
            return self.ended(index, Phase::Quiet);
        };
        let Answer { is_good, version, told_to_close } = answer;
        let outcome = match (is_good, told_to_close) {
            // No answer of the application, such as 503.
            (false, _) => Outcome::Lost,
            (true, true) => Outcome::Told,
            (true, false) => Outcome::Answered,
        };
        let now = now();
        let before = std::mem::replace(&mut client.version, version);
        let has_moved = before != 0 && before != version;
        let sample = Sample { kind, outcome, at, took: now.saturating_sub(at), version, has_moved };
        let asked_last = kind == Kind::Idle && self.has_asked;
        if asked_last && outcome == Outcome::Answered {
            client.kept = Some(sample);
            return;
        }
        self.samples.push(sample);
        let is_done = kind == Kind::Fresh || asked_last || (kind == Kind::Closed && self.load.reconnect);
        if told_to_close || is_done {
            self.remove(index);
        }
        if self.stop_at.is_some() {
            return;
        }
        let thought = now + self.load.thinks * 1_000;
        match kind {
            Kind::Closed if told_to_close || self.load.reconnect => {
                self.due.push(Reverse((thought, Due::Connect(kind))));
            }
            Kind::Closed => self.due.push(Reverse((thought, Due::Send(index, count)))),
            Kind::Paced if told_to_close => self.connect(kind, None),
            Kind::Paced => self.is_free(index),
            Kind::Raw => self.due.push(Reverse((now.max(at + BEAT), Due::Send(index, count)))),
            Kind::Fresh | Kind::Idle => {}
        }
    }

    fn ended(&mut self, index: usize, phase: Phase) {
        let Some(client) = &self.clients[index].1 else { return };
        let kind = client.kind;
        match phase {
            Phase::Waiting(at) => self.failed(kind, Outcome::Lost, at),
            _ => self.failed(kind, Outcome::ClosedBefore, now()),
        }
        self.remove(index);
        if self.stop_at.is_none() && matches!(kind, Kind::Closed | Kind::Paced) {
            self.connect(kind, (kind == Kind::Closed).then(now));
        }
    }

    // ---- the end ------------------------------------------------------------------------------------------

    fn is_waiting(&self) -> bool {
        self.waiting().next().is_some()
    }

    fn waiting(&self) -> impl Iterator<Item = (Kind, Outcome, u64)> {
        self.clients.iter().filter_map(|(_, client)| {
            let client = client.as_ref()?;
            match client.phase {
                Phase::Waiting(at) => Some((client.kind, Outcome::Lost, at)),
                Phase::Connecting(Some(at)) => Some((client.kind, Outcome::Refused, at)),
                _ => None,
            }
        })
    }

    /// What has no answer by now gets none.
    fn give_up(&mut self) {
        let waiting: Vec<_> = self.waiting().collect();
        waiting.into_iter().for_each(|(kind, outcome, at)| self.failed(kind, outcome, at));
    }

    /// Something else than an answer.
    fn failed(&mut self, kind: Kind, outcome: Outcome, at: u64) {
        let took = now().saturating_sub(at);
        self.samples.push(Sample { kind, outcome, at, took, version: 0, has_moved: false });
    }
}
