//! The log of a tracer, read while it is written: what the process did, when it met the fault, and whether it
//! is gone.
//!
//! Deliberately absent: ptrace. This side runs in the test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use syscalls::Sysno;

use super::case::Point;

/// The last message about the migration of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It was sent to the process that is to take it.
    Prepare,
    /// That process holds it: the other one closes it when it hears so.
    Prepared,
    /// That process serves it.
    Commit,
}

/// A log.
#[derive(Clone, Debug)]
pub struct Trace {
    path: PathBuf,
}

impl Trace {
    /// The log at this path, which need not exist yet.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn lines(&self) -> Vec<(SystemTime, String)> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let whole = text.rsplit_once('\n').map(|(whole, _)| whole.to_owned()).unwrap_or_default();
        let line = |line: &str| {
            let (micros, what) = line.split_once(' ')?;
            Some((UNIX_EPOCH + Duration::from_micros(micros.parse().ok()?), what.trim_end().to_owned()))
        };
        whole.lines().filter_map(line).collect()
    }

    fn when(&self, prefix: &str) -> Option<SystemTime> {
        let is = |what: &str| {
            what.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        self.lines().into_iter().find(|(_, what)| is(what)).map(|(when, _)| when)
    }

    /// Whether the tracer holds the process.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.when("attached").is_some()
    }

    /// When the fault began and ended.
    #[must_use]
    pub fn harm(&self) -> Option<(SystemTime, SystemTime)> {
        Some((self.when("harm")?, self.when("done")?))
    }

    /// Whether the fault has begun.
    #[must_use]
    pub fn is_harmed(&self) -> bool {
        self.when("harm").is_some()
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.when("gone").is_some()
    }

    /// When a message of this type was first sent: the call has returned.
    #[must_use]
    pub fn sent(&self, message: &str) -> Option<SystemTime> {
        self.when(&format!("sent {message}"))
    }

    /// When a message of this type was first received.
    #[must_use]
    pub fn received(&self, message: &str) -> Option<SystemTime> {
        self.when(&format!("received {message}"))
    }

    /// The clients whose connections migrated while requests were open on them, which the process that had them
    /// serves over a relay: it comes with the number of its connection, right behind it.
    #[must_use]
    pub fn relayed(&self) -> BTreeSet<String> {
        let mut relayed = BTreeSet::new();
        for (_, line) in self.lines().iter().filter(|(_, line)| line.contains(" prepare ")) {
            let words: Vec<_> = line.split(' ').filter_map(|word| word.split_once('=')).collect();
            let pairs = words.windows(2).filter(|pair| pair[0].0 == pair[1].0 && pair[1].1.is_empty());
            relayed.extend(pairs.map(|pair| pair[0].1.to_owned()));
        }
        relayed
    }

    /// How far the migration of each connection was, by the address of its client, when the log ends. One
    /// that was refused or aborted is where it was before.
    #[must_use]
    pub fn migrations(&self) -> BTreeMap<String, Phase> {
        let mut batches: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut phases = BTreeMap::new();
        for (_, line) in self.lines() {
            let words: Vec<_> = line.split(' ').map(ToOwned::to_owned).collect();
            let [_, message, batch, rest @ ..] = words.as_slice() else { continue };
            let phase = match message.as_str() {
                "prepare" => {
                    // A relay comes with the number of its connection, and has no client of its own.
                    let clients = rest.iter().filter_map(|word| word.split_once('='));
                    let clients = clients.filter(|(_, client)| !client.is_empty());
                    let clients = clients.map(|(id, client)| (id.to_owned(), client.to_owned())).collect();
                    batches.insert(batch.clone(), clients);
                    Some(Phase::Prepare)
                }
                "prepared" => Some(Phase::Prepared),
                "commit" => Some(Phase::Commit),
                "abort" => None,
                _ => continue,
            };
            let Some(clients) = batches.get_mut(batch) else { continue };
            for client in rest.iter().filter_map(|refused| clients.remove(refused)) {
                phases.remove(&client);
            }
            for client in clients.values() {
                match phase {
                    Some(phase) => phases.insert(client.clone(), phase),
                    None => phases.remove(client),
                };
            }
        }
        phases
    }

    /// How many lines there are.
    #[must_use]
    pub fn length(&self) -> usize {
        self.lines().len()
    }

    /// How often each call was made.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Sysno, u32> {
        let mut counts = BTreeMap::new();
        for (_, what) in self.lines() {
            let mut words = what.split(' ');
            let (Some("call"), Some(name), Some(nth)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if let (Ok(call), Ok(nth)) = (Sysno::from_str(name), nth.parse()) {
                counts.insert(call, nth);
            }
        }
        counts
    }

    /// The call at which the fault came, with what it was about to say.
    #[must_use]
    pub fn describe(&self, point: Point) -> String {
        let prefix = format!("call {point}");
        let line = self.lines().into_iter().find(|(_, what)| {
            what.strip_prefix(&prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        });
        line.map(|(_, what)| what["call ".len()..].to_owned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_whole() -> anyhow::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let text =
            "1000000 attached\n2000000 call sendmsg 1 ready\n2500000 sent ready\n3000000 harm sendmsg 1\n";
        fs::write(file.path(), format!("{text}4000000 done sendmsg 1\n5000000 go"))?;
        let trace = Trace::at(file.path());
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(trace.is_attached() && !trace.is_gone());
        assert_eq!(trace.harm(), Some((at(3), at(4))));
        assert_eq!(
            (trace.sent("ready"), trace.sent("read")),
            (Some(at(2) + Duration::from_millis(500)), None)
        );
        assert_eq!(trace.counts(), BTreeMap::from([(Sysno::sendmsg, 1)]));
        assert_eq!(trace.describe(Point { call: Sysno::sendmsg, nth: 1 }), "sendmsg 1 ready");
        Ok(())
    }

    #[test]
    fn how_far_migrations_are() -> anyhow::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let lines = [
            "received prepare 1 7=a:1 7= 8=b:1",
            "received prepare 2 9=c:1",
            "received prepare 3 10=d:1",
            "received prepare 4 11=e:1",
            "sent prepared 1 8",
            "sent prepared 2",
            "received commit 1",
            "received abort 3",
        ];
        let lines: String = lines.into_iter().map(|line| format!("1000000 {line}\n")).collect();
        fs::write(file.path(), lines)?;
        let phases = [("a:1", Phase::Commit), ("c:1", Phase::Prepared), ("e:1", Phase::Prepare)];
        let phases = phases.into_iter().map(|(client, phase)| (client.to_owned(), phase));
        assert_eq!(Trace::at(file.path()).migrations(), phases.collect());
        assert_eq!(Trace::at(file.path()).relayed(), ["a:1".to_owned()].into());
        Ok(())
    }
}
