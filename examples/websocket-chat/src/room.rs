//! What was said, in the one order in which all members hear it, also while the room moves to the next
//! version.
//!
//! Deliberately absent: sending. A member keeps in mind how far it has heard, and asks for the rest.
//!
//! Numbers are given by one process at a time, never by two. The old version exports its history for the next
//! one, and goes on; when it begins to drain it gives no more numbers: what its members say from then on
//! moves with them, unnumbered. Every member that moves brings along what was numbered after the export. So
//! the first of them completes the history of the next version, which only then gives numbers itself. If that
//! version is replaced before, it leaves the waiting to its successor. A rollback is a move like any other;
//! only that nothing is exported for it, so what members bring along is all that the old version learns of
//! what was said in the new one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hotupdate::{Drain, Serving};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What the exported history is; another version that means something else says so.
pub(crate) const SCHEMA: &str = "chat-history/1";

/// So many messages are kept for members that come later.
const MAX_HISTORY: usize = 1000;

/// So many bytes of the last messages, as JSON, a member can bring along.
const MAX_LATE: usize = 22 * 1024;

/// How long after an export the next version may take to begin. So long no more is numbered than a member can
/// bring along.
const HANDOFF: Duration = Duration::from_secs(2);

/// How long after its own beginning a process expects that it may be rolled back.
const ROLLBACK: Duration = Duration::from_secs(10);

/// How long numbers wait for the first member of the old version. It may have had none in the end, or died.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something that was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) name: String,
    pub(crate) text: String,
}

/// The room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    book: Mutex<Book>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Book {
    entries: VecDeque<Entry>,
    last: u64,
    members: usize,
    /// What the version before knows, and what the next one knows.
    imported: Option<Known>,
    exported: Option<Known>,
    /// The size of what was numbered since the export.
    since_export: usize,
    /// The generation of the process that gave the last numbers, as far as is known.
    author: String,
    /// `None` before this process serves.
    numbers: Option<Numbers>,
}

/// Another process knows what was said so far.
#[derive(Clone, Copy, Debug)]
struct Known {
    last: u64,
    at: Instant,
}

/// Whether numbers are given here.
#[derive(Debug)]
struct Numbers {
    generation: String,
    drain: Drain,
    wait: Wait,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wait {
    No,
    /// For a member that knows all that this author has numbered.
    For(String),
    /// As long as usual: another process waits for that member now.
    Patiently,
    /// For any member of the other process.
    ForAnybody,
}

/// What a member that moves brings along.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Late {
    author: String,
    entries: Vec<Entry>,
}

/// What is exported.
#[derive(Debug, Serialize, Deserialize)]
struct History {
    author: String,
    /// Members will come, and bring the rest of what this author has numbered.
    wait: bool,
    last: u64,
    entries: VecDeque<Entry>,
}

/// A member is in the room as long as this value exists.
#[derive(Debug)]
pub(crate) struct Presence {
    room: Arc<Room>,
}

impl Room {
    /// What the next version begins with.
    pub(crate) fn export(&self) -> Vec<u8> {
        let mut book = self.book();
        book.exported = Some(Known { last: book.last, at: Instant::now() });
        book.since_export = 0;
        let Book { entries, last, members, author, numbers, .. } = &mut *book;
        let waits = numbers.as_mut().is_some_and(|numbers| match numbers.wait {
            Wait::No => false,
            Wait::For(_) | Wait::Patiently | Wait::ForAnybody => {
                numbers.wait = Wait::Patiently;
                true
            }
        });
        let (wait, author) = (waits || *members > 0, author.clone());
        let history = History { author, wait, last: *last, entries: entries.clone() };
        serde_json::to_vec(&history).unwrap_or_default()
    }

    /// This process serves.
    pub(crate) fn open(self: &Arc<Self>, hot: &Serving) {
        let drain = hot.drain();
        let exported = hot.import("room").filter(|state| state.schema == SCHEMA);
        let history = exported.and_then(|state| serde_json::from_slice(&state.bytes).ok());
        self.begin(
            history,
            Numbers { generation: hot.generation().to_string(), drain: drain.clone(), wait: Wait::No },
        );
        self.changed.send_replace(());
        tokio::spawn(self.clone().watch(drain));
    }

    /// Waits until the history of the version before is here, which members of that version complete.
    pub(crate) async fn wait_until_open(&self) {
        let mut changes = self.changes();
        while self.book().numbers.is_none() {
            // The room lives as long as this.
            let _ = changes.changed().await;
        }
    }

    fn begin(&self, history: Option<History>, mut numbers: Numbers) {
        let mut book = self.book();
        book.author.clone_from(&numbers.generation);
        if let Some(History { author, wait, last, entries }) = history {
            (book.entries, book.last) = (entries, last);
            book.imported = Some(Known { last, at: Instant::now() });
            if wait {
                numbers.wait = Wait::For(author.clone());
                book.author = author;
            }
        }
        book.numbers = Some(numbers);
    }

    /// If no member comes, numbers are given in the end; also after the next version has failed.
    async fn watch(self: Arc<Self>, mut drain: Drain) {
        loop {
            let waits = self.book().numbers.as_ref().is_some_and(|numbers| numbers.wait != Wait::No);
            tokio::select! {
                () = tokio::time::sleep(PATIENCE), if waits && !drain.is_draining() => {
                    self.book().give_numbers(|_| true);
                    self.changed.send_replace(());
                }
                _ = drain.changed() => {}
            }
        }
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Presence {
        self.book().members += 1;
        Presence { room: self.clone() }
    }

    /// Tells when there is something to hear, or to say again.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Says it to all members, unless numbers are not given here at the moment: then it is to be said again
    /// later, perhaps in the next version.
    pub(crate) fn say(&self, name: &str, text: &str) -> bool {
        let mut book = self.book();
        // Under the lock: a member that migrates does it later, and brings this along.
        let entry = Entry { seq: book.last + 1, name: name.to_owned(), text: text.to_owned() };
        let since_export = book.since_export + entry.size();
        let handoff = book.exported.is_some_and(|exported| exported.at.elapsed() < HANDOFF);
        let given = book.numbers.as_ref().is_some_and(Numbers::are_given);
        let given = given && !(handoff && since_export > MAX_LATE);
        if given {
            book.since_export = since_export;
            book.append(entry);
            drop(book);
            self.changed.send_replace(());
        }
        given
    }

    /// What was said after `seq`.
    pub(crate) fn after(&self, seq: u64) -> Vec<Entry> {
        self.book().after(seq)
    }

    /// What the other version has not heard, for members that move there. Complete, because this process
    /// drains.
    pub(crate) fn late(&self) -> Late {
        let mut book = self.book();
        // If this process serves again, they come back with what they heard there.
        if let Some(numbers) = book.numbers.as_mut().filter(|numbers| numbers.drain.is_draining()) {
            numbers.wait = Wait::ForAnybody;
        }
        let rollback = book.imported.filter(|imported| imported.at.elapsed() < ROLLBACK);
        let known = rollback.or(book.exported).map_or(0, |known| known.last);
        let mut left = MAX_LATE;
        let mut late = book.after(known);
        let fitting = late.iter().rev().take_while(|entry| {
            let fits = entry.size() <= left;
            left = left.saturating_sub(entry.size());
            fits
        });
        let first = late.len() - fitting.count();
        Late { author: book.author.clone(), entries: late.split_off(first) }
    }

    /// A member of the other version has come, with what was said there in the end.
    pub(crate) fn complete(&self, late: Late) {
        let Late { author, entries } = late;
        let mut book = self.book();
        for entry in entries {
            if entry.seq > book.last {
                book.append(entry);
            }
        }
        book.give_numbers(|wait| match wait {
            Wait::For(awaited) => *awaited == author,
            Wait::ForAnybody => true,
            Wait::Patiently | Wait::No => false,
        });
        drop(book);
        self.changed.send_replace(());
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in here can panic half-way through a change.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// As JSON.
    fn size(&self) -> usize {
        serde_json::to_vec(self).map_or(0, |json| json.len() + 1)
    }
}

impl Numbers {
    fn are_given(&self) -> bool {
        self.wait == Wait::No && !self.drain.is_draining()
    }
}

impl Book {
    fn give_numbers(&mut self, is_over: impl FnOnce(&Wait) -> bool) {
        if let Some(numbers) = &mut self.numbers
            && !numbers.drain.is_draining()
            && is_over(&numbers.wait)
        {
            numbers.wait = Wait::No;
            self.author.clone_from(&numbers.generation);
        }
    }

    fn append(&mut self, entry: Entry) {
        self.last = entry.seq;
        self.entries.push_back(entry);
        if self.entries.len() > MAX_HISTORY {
            self.entries.pop_front();
        }
    }

    fn after(&self, seq: u64) -> Vec<Entry> {
        let heard = self.entries.partition_point(|entry| entry.seq <= seq);
        self.entries.range(heard..).cloned().collect()
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.room.book().members -= 1;
    }
}
