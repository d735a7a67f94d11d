//! The header table of a client (RFC 7541, section 2.3.2), followed without decoding a name or a value.
//!
//! Names and values are kept as the literals they came in. Their sizes are therefore not known, only the
//! least that they may be, and an entry is evicted when even the least sizes are too much. So a few entries
//! stay longer than in the client's own table. They do no harm: entries leave in the order in which they
//! came, so that every index which the client may use means the same here.

use std::collections::VecDeque;

use bytes::{Buf as _, BufMut as _};

use crate::hpack::{Malformed, decoded_length, integer, put_integer, string};
use crate::state::{get_bytes, put_bytes};

/// Where the dynamic table begins, behind the static one.
const DYNAMIC: usize = 62;

/// What an entry counts beside its name and value (RFC 7541, section 4.1).
const OVERHEAD: usize = 32;

/// The size of a table before anything is said about it (RFC 9113, section 6.5.2).
const DEFAULT_SIZE: usize = 4096;

/// The most bytes of a block that is rewritten: one byte can refer to an entry of thousands. h2 accepts a
/// quarter of it, with the settings of hyper.
const MAX_FLAT: usize = 256 * 1024;

/// A field that no request may have (RFC 9113, section 8.2.2): `connection: x`, as a literal that is not
/// indexed.
const FORBIDDEN: &[u8] = b"\x00\x0aconnection\x01x";

/// The header table of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// The newest first, as the client counts them.
    entries: VecDeque<Entry>,
    /// The literals of all entries, the oldest first.
    literals: VecDeque<u8>,
    /// How many bytes of literals have been evicted since the first one.
    evicted: u64,
    /// The least that all entries count.
    least: usize,
    /// What the client says that its table holds.
    size: usize,
    /// What the client may say.
    limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Where its literals begin, counted from the very first one.
    start: u64,
    name: Name,
    /// Bytes of the literal of its value, behind that of its name.
    value: u32,
    /// The least that it counts.
    least: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// An index of the static table.
    Static(u8),
    /// Bytes of the literal.
    Literal(u32),
}

impl Entry {
    fn name_length(&self) -> usize {
        match self.name {
            Name::Static(_) => 0,
            Name::Literal(length) => length as usize,
        }
    }

    fn length(&self) -> usize {
        self.name_length() + self.value as usize
    }
}

/// Where the name of a literal field comes from.
enum NameOf<'a> {
    Static(u8),
    Literal(&'a [u8]),
    Entry(Entry),
}

/// What the fields of a block are told to.
trait Sink {
    /// Bytes that mean the same in every table.
    fn as_it_is(&mut self, bytes: &[u8]) -> Result<(), Malformed>;
    /// An entry of the dynamic table.
    fn entry(&mut self, table: &Table, entry: &Entry) -> Result<(), Malformed>;
    /// A literal field; `first` has the bit that says whether it may ever be indexed.
    fn field(&mut self, table: &Table, first: u8, name: &NameOf<'_>, value: &[u8]) -> Result<(), Malformed>;
}

/// The table alone follows.
struct Nothing;

impl Sink for Nothing {
    #[inline]
    fn as_it_is(&mut self, _: &[u8]) -> Result<(), Malformed> {
        Ok(())
    }
    #[inline]
    fn entry(&mut self, _: &Table, _: &Entry) -> Result<(), Malformed> {
        Ok(())
    }
    #[inline]
    fn field(&mut self, _: &Table, _: u8, _: &NameOf<'_>, _: &[u8]) -> Result<(), Malformed> {
        Ok(())
    }
}

/// The block is written again, without a reference to the dynamic table and without an entry for it.
struct Flat<'a>(&'a mut Vec<u8>);

impl Flat<'_> {
    fn name(&mut self, table: &Table, first: u8, name: Name, start: u64) {
        match name {
            Name::Static(index) => put_integer(self.0, first, 4, index.into()),
            Name::Literal(length) => {
                self.0.push(first);
                table.copy(start, length as usize, self.0);
            }
        }
    }

    fn check(&self) -> Result<(), Malformed> {
        if self.0.len() > MAX_FLAT { Err(Malformed) } else { Ok(()) }
    }
}

impl Sink for Flat<'_> {
    fn as_it_is(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.0.extend_from_slice(bytes);
        self.check()
    }

    fn entry(&mut self, table: &Table, entry: &Entry) -> Result<(), Malformed> {
        self.name(table, 0, entry.name, entry.start);
        table.copy(entry.start + entry.name_length() as u64, entry.value as usize, self.0);
        self.check()
    }

    fn field(&mut self, table: &Table, first: u8, name: &NameOf<'_>, value: &[u8]) -> Result<(), Malformed> {
        match *name {
            NameOf::Static(index) => put_integer(self.0, first, 4, index.into()),
            NameOf::Literal(literal) => {
                self.0.push(first);
                self.0.extend_from_slice(literal);
            }
            NameOf::Entry(entry) => self.name(table, first, entry.name, entry.start),
        }
        self.0.extend_from_slice(value);
        self.check()
    }
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            literals: VecDeque::new(),
            evicted: 0,
            least: 0,
            size: DEFAULT_SIZE,
            limit: DEFAULT_SIZE,
        }
    }

    /// The server has announced how large the table may be. A client may use a larger one that was allowed
    /// before until it has heard of it, so the limit never sinks.
    pub(crate) fn allow(&mut self, limit: u32) {
        self.limit = self.limit.max(limit as usize);
    }

    /// Follows a whole header block.
    #[inline]
    pub(crate) fn follow(&mut self, block: &[u8]) -> Result<(), Malformed> {
        self.walk(block, &mut Nothing)
    }

    /// Follows a whole header block, and appends one to `out` that means the same to a decoder with any
    /// table, and leaves that as it is.
    pub(crate) fn flatten(&mut self, block: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        self.walk(block, &mut Flat(out))
    }

    #[inline]
    fn walk(&mut self, block: &[u8], sink: &mut impl Sink) -> Result<(), Malformed> {
        let mut at = self.follow_sizes(block)?;
        while let Some(&first) = block.get(at) {
            let start = at;
            if (0x81..0x80 + DYNAMIC as u8).contains(&first) {
                // An entry of the static table, in one byte, as most fields are.
                at += 1;
                sink.as_it_is(&block[start..at])?;
            } else if first & 0x80 != 0 {
                match integer(block, &mut at, 7)? {
                    0 => return Err(Malformed),
                    1..DYNAMIC => sink.as_it_is(&block[start..at])?,
                    index => sink.entry(self, &self.entry(index)?)?,
                }
            } else if first & 0x40 != 0 {
                let name = self.name(block, &mut at, 6)?;
                let value = &block[string(block, &mut at)?];
                sink.field(self, 0, &name, value)?;
                self.insert(&name, value);
            } else if first & 0x20 != 0 {
                // A size behind a field.
                return Err(Malformed);
            } else {
                let name = self.name(block, &mut at, 4)?;
                let value = &block[string(block, &mut at)?];
                sink.field(self, first & 0x10, &name, value)?;
            }
        }
        Ok(())
    }

    /// Follows the sizes at the beginning of a block (RFC 7541, section 4.2), and returns where they end.
    #[inline]
    fn follow_sizes(&mut self, block: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while block.get(at).is_some_and(|first| first & 0xe0 == 0x20) {
            self.size = integer(block, &mut at, 5)?;
            if self.size > self.limit {
                return Err(Malformed);
            }
            self.evict();
        }
        Ok(at)
    }

    // Into the code of the caller: what only follows the table has no use for the name.
    #[inline(always)]
    fn name<'a>(&self, block: &'a [u8], at: &mut usize, bits: u32) -> Result<NameOf<'a>, Malformed> {
        match integer(block, at, bits)? {
            0 => Ok(NameOf::Literal(&block[string(block, at)?])),
            index @ 1..DYNAMIC => Ok(NameOf::Static(index as u8)),
            index => self.entry(index).map(NameOf::Entry),
        }
    }

    #[inline]
    fn entry(&self, index: usize) -> Result<Entry, Malformed> {
        self.entries.get(index - DYNAMIC).copied().ok_or(Malformed)
    }

    fn insert(&mut self, name: &NameOf<'_>, value: &[u8]) {
        let start = self.evicted + self.literals.len() as u64;
        let (name, name_least) = match *name {
            NameOf::Static(index) => (Name::Static(index), 0),
            NameOf::Literal(literal) => {
                self.literals.extend(literal);
                (Name::Literal(literal.len() as u32), decoded_length(literal).0)
            }
            NameOf::Entry(Entry { name: Name::Static(index), .. }) => (Name::Static(index), 0),
            NameOf::Entry(entry) => {
                // It is still there: nothing is evicted before the new entry is complete.
                let mut literal = Vec::with_capacity(entry.name_length());
                self.copy(entry.start, entry.name_length(), &mut literal);
                self.literals.extend(&literal);
                (entry.name, decoded_length(&literal).0)
            }
        };
        self.literals.extend(value);
        let least = OVERHEAD + name_least + decoded_length(value).0;
        self.least += least;
        self.entries.push_front(Entry { start, name, value: value.len() as u32, least: least as u32 });
        self.evict();
    }

    fn evict(&mut self) {
        while self.least > self.size {
            let Some(entry) = self.entries.pop_back() else { return };
            self.least -= entry.least as usize;
            self.literals.drain(..entry.length());
            self.evicted += entry.length() as u64;
        }
    }

    /// Appends literals that begin at `start`.
    fn copy(&self, start: u64, length: usize, out: &mut Vec<u8>) {
        let from = (start - self.evicted) as usize;
        out.extend(self.literals.range(from..from + length));
    }

    /// A header block that gives a new decoder this table. No request comes of it: it is malformed.
    /// `announced` is what the server says that a table may hold.
    pub(crate) fn prime(&self, announced: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(FORBIDDEN.len() + self.literals.len() + 2 * self.entries.len() + 8);
        let size = self.size.min(announced as usize);
        if size != DEFAULT_SIZE {
            put_integer(&mut out, 0x20, 5, size);
        }
        out.extend_from_slice(FORBIDDEN);
        for entry in self.entries.iter().rev() {
            match entry.name {
                Name::Static(index) => put_integer(&mut out, 0x40, 6, index.into()),
                Name::Literal(_) => out.push(0x40),
            }
            self.copy(entry.start, entry.length(), &mut out);
        }
        out
    }

    /// The most that the fields of [`prime`](Self::prime) count when they are decoded, as a list of headers
    /// does (RFC 9113, section 6.5.2).
    pub(crate) fn most(&self) -> usize {
        let longest_static = 32;
        let fields = self.entries.len() * (OVERHEAD + longest_static) + self.literals.len() * 8 / 5;
        fields + OVERHEAD + FORBIDDEN.len()
    }

    /// As a part of a state: the literals of the entries say what they are.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u32(self.size as u32);
        out.put_u32(self.entries.len() as u32);
        for entry in self.entries.iter().rev() {
            out.put_u8(match entry.name {
                Name::Static(index) => index,
                Name::Literal(_) => 0,
            });
        }
        let (one, two) = self.literals.as_slices();
        put_bytes(out, &[one, two].concat());
    }

    /// Reads what [`put`](Self::put) has written.
    pub(crate) fn get(from: &mut &[u8]) -> Option<Self> {
        let mut table = Self::new();
        let size = from.try_get_u32().ok()?;
        table.allow(size);
        table.size = size as usize;
        let entries = from.try_get_u32().ok()? as usize;
        let (names, rest) = from.split_at_checked(entries)?;
        *from = rest;
        let literals = get_bytes(from)?;
        let mut at = 0;
        for name in names {
            let name = match *name {
                0 => NameOf::Literal(&literals[string(literals, &mut at).ok()?]),
                index @ 1..62 => NameOf::Static(index),
                _ => return None,
            };
            let value = string(literals, &mut at).ok()?;
            table.insert(&name, &literals[value]);
        }
        (at == literals.len()).then_some(table)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A literal, and how long it is when it is decoded.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Text(Vec<u8>, usize);

    #[derive(Clone, Debug, PartialEq, Eq)]
    enum NameIs {
        Static(u8),
        New(Text),
    }

    /// What a client encodes. The numbers of entries are taken modulo those that there are.
    #[derive(Clone, Debug)]
    enum Field {
        Static(u8),
        Entry(usize),
        Learn(NameIs, Text),
        LearnWithNameOf(usize, Text),
        Plain(NameIs, Text),
        NeverWithNameOf(usize, Text),
    }

    fn plain(text: &[u8]) -> Text {
        let mut bytes = Vec::new();
        put_integer(&mut bytes, 0, 7, text.len());
        bytes.extend_from_slice(text);
        Text(bytes, text.len())
    }

    fn text() -> impl Strategy<Value = Text> {
        prop_oneof![
            vec(any::<u8>(), 0..40).prop_map(|text| plain(&text)),
            // With Huffman codes: RFC 7541, appendices C.4.1 to C.4.3 and C.6.1.
            Just(Text(b"\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff".to_vec(), 15)),
            Just(Text(b"\x86\xa8\xeb\x10\x64\x9c\xbf".to_vec(), 8)),
            Just(Text(b"\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f".to_vec(), 10)),
            Just(Text(b"\x82\x64\x02".to_vec(), 3)),
        ]
    }

    fn name() -> impl Strategy<Value = NameIs> {
        prop_oneof![(1..62_u8).prop_map(NameIs::Static), text().prop_map(NameIs::New)]
    }

    fn field() -> impl Strategy<Value = Field> {
        prop_oneof![
            (1..62_u8).prop_map(Field::Static),
            any::<usize>().prop_map(Field::Entry),
            (name(), text()).prop_map(|(name, value)| Field::Learn(name, value)),
            (any::<usize>(), text()).prop_map(|(entry, value)| Field::LearnWithNameOf(entry, value)),
            (name(), text()).prop_map(|(name, value)| Field::Plain(name, value)),
            (any::<usize>(), text()).prop_map(|(entry, value)| Field::NeverWithNameOf(entry, value)),
        ]
    }

    /// A table that knows the exact sizes, of which the one of a static name is taken for 10.
    #[derive(Clone, Debug)]
    struct Exact {
        entries: Vec<(NameIs, Text)>,
        size: usize,
    }

    impl Exact {
        fn counts((name, value): &(NameIs, Text)) -> usize {
            let name = match name {
                NameIs::Static(_) => 10,
                NameIs::New(name) => name.1,
            };
            OVERHEAD + name + value.1
        }

        fn evict(&mut self) {
            while self.entries.iter().map(Self::counts).sum::<usize>() > self.size {
                self.entries.pop();
            }
        }

        fn learn(&mut self, name: NameIs, value: Text) {
            self.entries.insert(0, (name, value));
            self.evict();
        }

        fn resize(&mut self, size: usize, block: &mut Vec<u8>) {
            put_integer(block, 0x20, 5, size);
            self.size = size;
            self.evict();
        }

        /// Encodes a field, and returns what it means: `None` for a name that stands for a whole field.
        fn encode(&mut self, field: &Field, block: &mut Vec<u8>) -> (NameIs, Option<Text>) {
            let with_name = |first: u8, bits, name: &NameIs, block: &mut Vec<u8>| match name {
                NameIs::Static(index) => put_integer(block, first, bits, (*index).into()),
                NameIs::New(text) => {
                    block.push(first);
                    block.extend_from_slice(&text.0);
                }
            };
            let count = self.entries.len();
            match field.clone() {
                Field::Entry(entry) if count > 0 => {
                    put_integer(block, 0x80, 7, DYNAMIC + entry % count);
                    let (name, value) = self.entries[entry % count].clone();
                    (name, Some(value))
                }
                Field::LearnWithNameOf(entry, value) if count > 0 => {
                    put_integer(block, 0x40, 6, DYNAMIC + entry % count);
                    block.extend_from_slice(&value.0);
                    let name = self.entries[entry % count].0.clone();
                    self.learn(name.clone(), value.clone());
                    (name, Some(value))
                }
                Field::NeverWithNameOf(entry, value) if count > 0 => {
                    put_integer(block, 0x10, 4, DYNAMIC + entry % count);
                    block.extend_from_slice(&value.0);
                    (self.entries[entry % count].0.clone(), Some(value))
                }
                Field::Learn(name, value) => {
                    with_name(0x40, 6, &name, block);
                    block.extend_from_slice(&value.0);
                    self.learn(name.clone(), value.clone());
                    (name, Some(value))
                }
                Field::Plain(name, value) => {
                    with_name(0, 4, &name, block);
                    block.extend_from_slice(&value.0);
                    (name, Some(value))
                }
                Field::Static(index) => {
                    block.push(0x80 | index);
                    (NameIs::Static(index), None)
                }
                Field::Entry(_) | Field::LearnWithNameOf(..) | Field::NeverWithNameOf(..) => {
                    block.push(0x82);
                    (NameIs::Static(2), None)
                }
            }
        }
    }

    /// What a block means that refers to no table but the static one.
    fn decode_flat(block: &[u8]) -> Vec<(NameIs, Option<Vec<u8>>)> {
        let (mut at, mut fields) = (0, Vec::new());
        while let Some(&first) = block.get(at) {
            if first & 0x80 != 0 {
                let index = integer(block, &mut at, 7).unwrap();
                assert!(index < DYNAMIC);
                fields.push((NameIs::Static(index as u8), None));
                continue;
            }
            let bits = if first & 0x40 != 0 { 6 } else { 4 };
            let name = match integer(block, &mut at, bits).unwrap() {
                0 => {
                    let name = &block[string(block, &mut at).unwrap()];
                    NameIs::New(Text(name.to_vec(), 0))
                }
                index => {
                    assert!(index < DYNAMIC);
                    NameIs::Static(index as u8)
                }
            };
            let value = string(block, &mut at).unwrap();
            fields.push((name, Some(block[value].to_vec())));
        }
        fields
    }

    fn without_lengths(fields: &[(NameIs, Option<Text>)]) -> Vec<(NameIs, Option<Vec<u8>>)> {
        let name = |name: &NameIs| match name {
            NameIs::New(text) => NameIs::New(Text(text.0.clone(), 0)),
            NameIs::Static(index) => NameIs::Static(*index),
        };
        fields.iter().map(|(n, value)| (name(n), value.as_ref().map(|text| text.0.clone()))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever a client encodes: the block that is rewritten means the same, what primes a decoder is
        /// the client's table and older entries behind it, and a table that has travelled is the same.
        #[test]
        fn a_table_follows_any_client(
            blocks in vec((vec(0..4096_usize, 0..3), vec(field(), 0..8)), 0..12),
        ) {
            let mut exact = Exact { entries: Vec::new(), size: DEFAULT_SIZE };
            let (mut followed, mut flattened) = (Table::new(), Table::new());
            for (sizes, fields) in blocks {
                let mut block = Vec::new();
                sizes.into_iter().for_each(|size| exact.resize(size, &mut block));
                let means: Vec<_> = fields.iter().map(|field| exact.encode(field, &mut block)).collect();

                followed.follow(&block).unwrap();
                let mut flat = Vec::new();
                flattened.flatten(&block, &mut flat).unwrap();
                prop_assert_eq!(decode_flat(&flat), without_lengths(&means));
                prop_assert_eq!(&followed, &flattened);

                let prime = followed.prime(DEFAULT_SIZE as u32);
                let primed = &prime[prime.windows(FORBIDDEN.len()).position(|at| at == FORBIDDEN).unwrap()..];
                let mut entries = decode_flat(&primed[FORBIDDEN.len()..]);
                entries.reverse();
                let expected: Vec<_> = exact.entries.iter().map(|(n, v)| (n.clone(), Some(v.clone()))).collect();
                prop_assert_eq!(&entries[..expected.len()], &without_lengths(&expected)[..]);

                let mut bytes = Vec::new();
                followed.put(&mut bytes);
                let read = Table::get(&mut &bytes[..]).unwrap();
                prop_assert_eq!(read.prime(DEFAULT_SIZE as u32), prime);
            }
        }

        #[test]
        fn no_block_makes_it_fail(block in vec(any::<u8>(), 0..60)) {
            let mut table = Table::new();
            let mut flat = Vec::new();
            let followed = table.clone().follow(&block);
            prop_assert_eq!(table.flatten(&block, &mut flat), followed);
        }
    }

    #[test]
    fn what_no_decoder_accepts_is_malformed() {
        let blocks: [&[u8]; 7] = [
            b"\x80",         // the index 0
            b"\xbe",         // an entry that is not there
            b"\x7e\x01x",    // the name of one
            b"\x82\x20",     // a size behind a field
            b"\x3f\xe2\x1f", // a larger table than is allowed
            b"\x40\x05abc",  // a literal that ends too early
            b"\x40\x01a",    // no value
        ];
        for block in blocks {
            assert_eq!(Table::new().follow(block), Err(Malformed), "{block:?}");
        }
    }

    /// A size that was allowed once is known to the client, and one that is taken back perhaps not yet.
    #[test]
    fn the_limit_of_a_table_never_sinks() {
        let mut table = Table::new();
        table.allow(8192);
        table.allow(100);
        assert_eq!(table.follow(b"\x3f\xe1\x3f"), Ok(()));
        assert_eq!(table.follow(b"\x3f\xe2\x3f"), Err(Malformed));
    }

    /// One byte that refers to an entry of thousands: a block of them is a bomb.
    #[test]
    fn a_block_that_grows_too_much_is_refused() {
        let mut block = b"\x40\x01a".to_vec();
        put_integer(&mut block, 0, 7, 4000);
        block.extend([b'x'; 4000]);
        let mut table = Table::new();
        table.follow(&block).unwrap();
        let bomb = vec![0xbe; 1000];
        assert_eq!(table.clone().follow(&bomb), Ok(()));
        assert_eq!(table.flatten(&bomb, &mut Vec::new()), Err(Malformed));
    }
}
