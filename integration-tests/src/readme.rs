//! The READMEs of this repository, whose commands tests run as they stand.
//!
//! Each block of commands has one of two comments before it: `<!-- run: NAME -->`, by which a test finds it, or
//! `<!-- not run: REASON -->`.

use std::fs;
use std::path::{Path, PathBuf};

/// The README of a folder.
#[derive(Clone, Debug)]
pub struct Readme {
    folder: String,
    text: String,
}

/// A block of lines that a README shows as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where it begins.
    pub line: usize,
    /// What is said to be in it: `sh` are commands.
    pub language: String,
    /// What the comment before it says.
    pub comment: Option<String>,
    /// Its lines.
    pub text: String,
}

impl Block {
    /// The name by which a test finds it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.comment.as_deref()?.strip_prefix("run: ")
    }
}

/// The folder of this repository.
#[must_use]
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    here.canonicalize().expect("it is where it was built")
}

impl Readme {
    /// The README of a folder of this repository, such as `examples/systemd`; `.` is that of the whole.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn of(folder: &str) -> Self {
        let path = repository().join(folder).join("README.md");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { folder: folder.to_owned(), text }
    }

    /// All of it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The commands after the comment `<!-- run: NAME -->`.
    ///
    /// # Panics
    ///
    /// If there is no such block, or another of that name.
    #[must_use]
    #[track_caller]
    pub fn commands(&self, name: &str) -> String {
        let named: Vec<_> = self.blocks().into_iter().filter(|block| block.name() == Some(name)).collect();
        let [block] = &named[..] else { panic!("{}: {} blocks {name:?}", self.folder, named.len()) };
        block.text.clone()
    }

    /// Every block.
    #[must_use]
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut lines = self.text.lines().enumerate();
        let mut before = "";
        while let Some((number, line)) = lines.next() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                let inner = lines.by_ref().map(|(_, line)| line);
                let inner = inner.take_while(|line| !line.trim_start().starts_with("```"));
                let text = inner.flat_map(|line| [line, "\n"]).collect();
                let comment = before.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
                let (language, comment) = (language.to_owned(), comment.map(str::to_owned));
                blocks.push(Block { line: number + 1, language, comment, text });
            }
            before = line;
        }
        blocks
    }
}
