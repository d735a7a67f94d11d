//! What was said, in the one order in which everybody hears it, also while the room moves to the next version.
//!
//! Deliberately absent: sending. A member keeps in mind how far it has heard, and asks for the rest.
//!
//! Numbers are given by one process at a time, never by two. The old version exports its history for the next one, and
//! goes on; when it begins to drain it gives no more numbers: what its members say from then on moves with them, unnumbered.
//! Every member that moves brings along what was numbered after the export. So the first of them completes the history of
//! the next version, which only then gives numbers itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hotupdate::{Drain, Serving};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What the exported history is; another version that means something else says so.
pub(crate) const SCHEMA: &str = "chat-history/1";

/// So many messages are kept for those who come later.
const MAX_HISTORY: usize = 500;

/// So many of the last messages a member can bring along, and so many bytes of them.
const MAX_LATE: usize = 200;
const MAX_LATE_BYTES: usize = 12 * 1024;

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
    /// The other version has heard up to here by itself.
    known: u64,
    members: usize,
    /// Numbers are given here. `None` before this process serves.
    numbers: Option<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    drain: Drain,
    wait: bool,
}

/// What is exported.
#[derive(Debug, Serialize, Deserialize)]
struct History {
    /// Members will come, and bring the rest.
    wait: bool,
    last: u64,
    entries: VecDeque<Entry>,
}

/// Somebody is in the room, as long as this value is there.
#[derive(Debug)]
pub(crate) struct Presence {
    room: Arc<Room>,
}

impl Room {
    /// What the next version begins with.
    pub(crate) fn export(&self) -> Vec<u8> {
        let mut book = self.book();
        book.known = book.last;
        let Book { entries, last, members, numbers, .. } = &*book;
        let wait = *members > 0 || numbers.as_ref().is_some_and(|numbers| numbers.wait);
        let history = History { wait, last: *last, entries: entries.clone() };
        serde_json::to_vec(&history).unwrap_or_default()
    }

    /// This process serves.
    pub(crate) fn open(self: &Arc<Self>, hot: &Serving) {
        let drain = hot.drain();
        let exported = hot.import("room").filter(|state| state.schema == SCHEMA);
        let history = exported.and_then(|state| serde_json::from_slice(&state.bytes).ok());
        self.begin(history, drain.clone());
        tokio::spawn(self.clone().watch(drain));
    }

    fn begin(&self, history: Option<History>, drain: Drain) {
        let mut book = self.book();
        let mut wait = false;
        if let Some(history) = history {
            (book.entries, book.last, book.known) = (history.entries, history.last, history.last);
            wait = history.wait;
        }
        book.numbers = Some(Numbers { drain, wait });
    }

    /// Without members of the other version numbers are given in the end, also after it has failed.
    async fn watch(self: Arc<Self>, mut drain: Drain) {
        loop {
            tokio::time::sleep(PATIENCE).await;
            self.give_numbers();
            drain.started().await;
            if let Some(numbers) = &mut self.book().numbers {
                numbers.wait = true;
            }
            drain.ended().await;
        }
    }

    fn give_numbers(&self) {
        if let Some(numbers) = &mut self.book().numbers {
            numbers.wait = false;
        }
        self.changed.send_replace(());
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Presence {
        self.book().members += 1;
        Presence { room: self.clone() }
    }

    /// Tells when there is something to hear, or to say again.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Says it to everybody, unless numbers are not given here at the moment: then it is to be said again later, perhaps
    /// in the next version.
    pub(crate) fn say(&self, name: &str, text: &str) -> bool {
        let mut book = self.book();
        // Under the lock: whoever moves, moves later, and brings this along.
        let given =
            book.numbers.as_ref().is_some_and(|numbers| !numbers.wait && !numbers.drain.is_draining());
        if given {
            let entry = Entry { seq: book.last + 1, name: name.to_owned(), text: text.to_owned() };
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

    /// What the other version has not heard, for members that move there. Complete, because this one drains.
    pub(crate) fn late(&self) -> Vec<Entry> {
        let book = self.book();
        let late = book.after(book.known.max(book.last.saturating_sub(MAX_LATE as u64)));
        let mut room = MAX_LATE_BYTES;
        let fits = late.iter().rev().take_while(|entry| {
            let size = entry.name.len() + entry.text.len();
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        });
        let fitting = fits.count();
        late[late.len() - fitting..].to_vec()
    }

    /// A member of the other version has come, with what was said there in the end.
    pub(crate) fn complete(&self, late: Vec<Entry>) {
        let mut book = self.book();
        for entry in late {
            if entry.seq > book.last {
                book.append(entry);
            }
        }
        drop(book);
        self.give_numbers();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in here can panic half-way through a change.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
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
