//! What became of each request.

use std::fmt;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;

/// Which client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Closed,
    Paced,
    Fresh,
    Idle,
    Raw,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Closed, Self::Paced, Self::Fresh, Self::Idle, Self::Raw];
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Outcome {
    Answered,
    /// Answered, and the client was told to close.
    Told,
    /// The bytes were written and no answer came.
    Lost,
    /// No connection could be opened for it.
    Refused,
    /// Not a request: a connection was seen closed before its next one.
    ClosedBefore,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Answered, Self::Told, Self::Lost, Self::Refused, Self::ClosedBefore];
}

/// One request, or the end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) kind: Kind,
    pub(crate) outcome: Outcome,
    /// When it was meant to be sent, in nanoseconds of the monotonic clock.
    pub(crate) at: u64,
    /// Until its end, in nanoseconds.
    pub(crate) took: u64,
    /// The version that answered; 0 if none did.
    pub(crate) version: u32,
    /// Another version had answered before on this connection: it has moved since.
    pub(crate) has_moved: bool,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, outcome, at, took, version, has_moved } = self;
        let (kind, outcome, has_moved) = (*kind as u8, *outcome as u8, u8::from(*has_moved));
        write!(f, "{kind} {outcome} {at} {took} {version} {has_moved}")
    }
}

pub(super) fn write(path: &Path, samples: &[Sample]) -> anyhow::Result<()> {
    let file = fs::File::create(path).with_context(|| format!("writing {}", path.display()))?;
    let mut file = BufWriter::new(file);
    samples.iter().try_for_each(|sample| writeln!(file, "{sample}"))?;
    Ok(file.flush()?)
}

/// What the load has written.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Sample>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    text.lines().map(|line| parse(line).with_context(|| format!("{line:?} is no sample"))).collect()
}

fn parse(line: &str) -> Option<Sample> {
    let mut fields = line.split(' ');
    let mut next = || fields.next()?.parse::<u64>().ok();
    let (kind, outcome, at, took) = (next()?, next()?, next()?, next()?);
    let (version, has_moved) = (next()?, next()?);
    Some(Sample {
        kind: *Kind::ALL.get(usize::try_from(kind).ok()?)?,
        outcome: *Outcome::ALL.get(usize::try_from(outcome).ok()?)?,
        at,
        took,
        version: u32::try_from(version).ok()?,
        has_moved: has_moved != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_read_as_it_was_written() {
        for (kind, outcome) in Kind::ALL.into_iter().zip(Outcome::ALL) {
            let has_moved = outcome == Outcome::Answered;
            let sample = Sample { kind, outcome, at: 5, took: u64::MAX, version: 2, has_moved };
            let read = parse(&sample.to_string()).unwrap();
            let all = (read.kind, read.outcome, read.at, read.took, read.version, read.has_moved);
            assert_eq!(all, (kind, outcome, 5, u64::MAX, 2, has_moved));
        }
        assert!(parse("0 0 1 2 3").is_none() && parse("9 0 1 2 3 0").is_none());
    }
}
