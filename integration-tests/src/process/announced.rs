//! What the processes of a sandbox have announced so far: each line of their logs is read once.
//!
//! Deliberately absent: the other lines. They are for people.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::announcement::{Drained, Serving};

#[derive(Debug, Default)]
pub(super) struct Announced {
    /// How far each log was read.
    read: HashMap<PathBuf, u64>,
    pub(super) servings: Vec<Serving>,
    pub(super) drained: Vec<Drained>,
}

impl Announced {
    /// Reads on in these logs, to the end of the last line that is whole.
    pub(super) fn catch_up(&mut self, logs: &[PathBuf]) {
        for path in logs {
            let from = self.read.get(path).copied().unwrap_or_default();
            let text = read_from(path, from).unwrap_or_default();
            let Some(end) = text.iter().rposition(|byte| *byte == b'\n') else { continue };
            self.read.insert(path.clone(), from + end as u64 + 1);
            let lines = String::from_utf8_lossy(&text[..end]);
            self.servings.extend(lines.lines().filter_map(Serving::parse));
            self.drained.extend(lines.lines().filter_map(Drained::parse));
        }
        self.servings.sort_by_key(|serving| serving.generation);
        self.drained.sort_by_key(|drained| drained.generation);
    }
}

fn read_from(path: &Path, position: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(position))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
