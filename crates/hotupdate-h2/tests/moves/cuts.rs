//! Any valid stream of requests, cut anywhere by moves, is understood as the client has meant it.

use std::collections::VecDeque;

use proptest::prelude::*;

use crate::raw::*;
use crate::world::{Asked, Open, builder};

/// A field, as numbers that are taken modulo what there is.
#[derive(Clone, Debug)]
struct Field {
    form: u8,
    name: usize,
    value: String,
    huffman: bool,
}

#[derive(Clone, Debug)]
struct Asks {
    fields: Vec<Field>,
    /// The block begins with these table sizes.
    sizes: Vec<u16>,
    /// Bytes of the body; none without.
    body: Option<usize>,
    /// The block comes in pieces of so many bytes.
    pieces: usize,
}

/// A client's encoder (RFC 7541), with a table of its own.
#[derive(Default)]
struct Encoder {
    table: VecDeque<(String, String)>,
    size: usize,
}

impl Encoder {
    fn integer(out: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
        let mask = (1 << bits) - 1;
        if value < mask {
            return out.push(first | value as u8);
        }
        out.push(first | mask as u8);
        let mut rest = value - mask;
        while rest >= 128 {
            out.push(rest as u8 | 128);
            rest >>= 7;
        }
        out.push(rest as u8);
    }

    /// The ten characters of `VALUES` have the codes 0 to 9, of five bits (RFC 7541, appendix B).
    fn string(out: &mut Vec<u8>, text: &str, huffman: bool) {
        let codes: Option<Vec<usize>> = text.chars().map(|c| VALUES.find(c)).collect();
        match codes.filter(|_| huffman) {
            None => {
                Self::integer(out, 0, 7, text.len());
                out.extend(text.bytes());
            }
            Some(codes) => {
                let mut bits: Vec<bool> =
                    codes.iter().flat_map(|code| (0..5).rev().map(move |bit| code >> bit & 1 == 1)).collect();
                bits.resize(bits.len().next_multiple_of(8), true);
                Self::integer(out, 0x80, 7, bits.len() / 8);
                out.extend(
                    bits.chunks(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | u8::from(*bit))),
                );
            }
        }
    }

    fn insert(&mut self, name: &str, value: &str) {
        self.table.push_front((name.to_owned(), value.to_owned()));
        self.evict();
    }

    fn evict(&mut self) {
        let size = |table: &VecDeque<(String, String)>| {
            table.iter().map(|(name, value)| 32 + name.len() + value.len()).sum::<usize>()
        };
        while size(&self.table) > self.size {
            self.table.pop_back();
        }
    }

    /// Appends the field, and returns what it means.
    fn field(&mut self, out: &mut Vec<u8>, field: &Field) -> (String, Vec<u8>) {
        let Field { form, name, value, huffman } = field;
        let known = (!self.table.is_empty()).then(|| name % self.table.len());
        if let Some(index) = known.filter(|_| form % 3 == 0) {
            Self::integer(out, 0x80, 7, 62 + index);
            let (name, value) = self.table[index].clone();
            return (name, value.into_bytes());
        }
        let (first, bits) = [(0x40, 6), (0x40, 6), (0, 4), (0x10, 4)][usize::from(form / 3) % 4];
        let name = match known.filter(|_| form % 2 == 0) {
            Some(index) => {
                Self::integer(out, first, bits, 62 + index);
                self.table[index].0.clone()
            }
            // `user-agent` of the static table.
            None if name % 8 == 0 => {
                Self::integer(out, first, bits, 58);
                "user-agent".to_owned()
            }
            None => {
                out.push(first);
                let name = format!("x-{}", name % 8);
                Self::string(out, &name, false);
                name
            }
        };
        Self::string(out, value, *huffman);
        if bits == 6 {
            self.insert(&name, value);
        }
        (name, value.clone().into_bytes())
    }

    fn resize(&mut self, out: &mut Vec<u8>, size: usize) {
        Self::integer(out, 0x20, 5, size);
        self.size = size;
        self.evict();
    }
}

const VALUES: &str = "012aceiost";

fn asks() -> impl Strategy<Value = Asks> {
    let field = (any::<u8>(), 0..200_usize, "[012aceiost]{0,60}|[a-z ]{0,9}[a-z]", any::<bool>())
        .prop_map(|(form, name, value, huffman)| Field { form, name, value, huffman });
    let sizes = prop_oneof![4 => Just(vec![]), 1 => prop::collection::vec(0..4097_u16, 1..3)];
    let body = prop_oneof![Just(None), (0..3_000_usize).prop_map(Some)];
    (prop::collection::vec(field, 0..12), sizes, body, 1..200_usize)
        .prop_map(|(fields, sizes, body, pieces)| Asks { fields, sizes, body, pieces })
}

/// All that the client says, and what is to be understood.
fn say(asks: &[Asks]) -> (Vec<u8>, Vec<Asked>) {
    let mut encoder = Encoder { size: 4096, ..Encoder::default() };
    let (mut said, mut meant) = (Vec::new(), Vec::new());
    for (n, asks) in asks.iter().enumerate() {
        let stream = 1 + 2 * n as u32;
        let mut block = Vec::new();
        for size in &asks.sizes {
            encoder.resize(&mut block, usize::from(*size));
        }
        let path = format!("/{n:04}");
        block.extend(get(&path, &[]));
        let mut headers: Vec<_> = asks.fields.iter().map(|field| encoder.field(&mut block, field)).collect();
        headers.sort();
        meant.push((path, headers));
        // h2 reads at most five CONTINUATION frames.
        let pieces: Vec<_> = block.chunks(asks.pieces.max(block.len().div_ceil(4))).collect();
        for (n, piece) in pieces.iter().enumerate() {
            let end = if n + 1 == pieces.len() { END_HEADERS } else { 0 };
            match n {
                0 => said.extend(frame(HEADERS, end | u8::from(asks.body.is_none()), stream, piece)),
                _ => said.extend(frame(CONTINUATION, end, stream, piece)),
            }
        }
        if let Some(body) = asks.body {
            said.extend(frame(DATA, END, stream, &vec![7; body]));
        }
    }
    (said, meant)
}

async fn check(asks: Vec<Asks>, cuts: Vec<prop::sample::Index>, open: Open) -> u64 {
    let (said, meant) = say(&asks);
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(said.len())).collect();
    cuts.sort_unstable();
    let mut client = Client::connect_open(|_| builder(), &[], open).await;
    let mut heard = Vec::new();
    let mut at = 0;
    for cut in cuts {
        client.say(&said[at..cut]).await;
        at = cut;
        client.moves().await;
        heard.extend(client.read_all().await);
    }
    client.say(&said[at..]).await;
    heard.extend(client.read_all().await);
    for (n, asks) in asks.iter().enumerate() {
        assert_answered(&heard, 1 + 2 * n as u32, &vec![7; asks.body.unwrap_or(0)]);
    }
    let mut seen = client.seen.lock().unwrap().clone();
    seen.sort();
    assert_eq!(seen, meant);
    let ended = client.ended().await;
    assert!(ended.result.is_ok() && ended.stays.is_empty(), "{ended:?}");
    ended.moves
}

fn any_stream(open: Open) -> u64 {
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    let moves = std::cell::Cell::new(0);
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..6);
    proptest!(config, |(asks in prop::collection::vec(asks(), 1..10), cuts in cuts)| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().unwrap();
        moves.set(moves.get() + runtime.block_on(check(asks, cuts, open)));
    });
    moves.get()
}

#[test]
fn any_stream_of_requests_cut_anywhere() {
    let moves = any_stream(Open::End);
    assert!(moves > 200, "hardly anything has moved: {moves}");
}

#[test]
fn any_stream_of_requests_cut_anywhere_and_left_behind() {
    let moves = any_stream(Open::Stay);
    assert!(moves > 200, "hardly anything has moved: {moves}");
}

#[test]
fn any_stream_of_requests_cut_anywhere_and_given_back() {
    any_stream(Open::Return);
    any_stream(Open::Hesitate);
}

/// Any frame, valid or not: its kind, flags, stream after those that were used, and payload.
fn any_frame() -> impl Strategy<Value = (u8, u8, u32, Vec<u8>)> {
    let payload = prop_oneof![
        2 => prop::collection::vec(any::<u8>(), 0..24),
        1 => Just(POST.to_vec()),
        1 => Just(get("/", b"\xbe")),
        1 => (0..8_u16, any::<u32>()).prop_map(|(number, value)| setting(number, value)),
        1 => any::<u32>().prop_map(|number| number.to_be_bytes().to_vec()),
        1 => any::<u64>().prop_map(|number| number.to_be_bytes().to_vec()),
    ];
    let flags = prop_oneof![Just(0), Just(END), Just(END_HEADERS), Just(END | END_HEADERS), any::<u8>()];
    (0..11_u8, flags, 0..4_u32, payload)
}

/// What a client is told about streams that were not used, or about the connection; not the room that it has,
/// and not the fields of answers, which depend on the encoder.
fn reaction(heard: Vec<Frame>) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let told = heard.into_iter().filter(|frame| frame.kind != WINDOW_UPDATE).map(|frame| {
        let payload = if frame.kind == HEADERS { Vec::new() } else { frame.payload };
        (frame.kind, frame.flags, frame.stream, payload)
    });
    let mut told: Vec<_> = told.collect();
    told.sort();
    told
}

/// Says some requests, moves so often, and says frames. What it is told about them, and what the service was
/// asked. If streams can stay behind, one does.
async fn react(
    asks: &[Asks],
    moves: usize,
    open: Open,
    frames: &[(u8, u8, u32, Vec<u8>)],
) -> (Vec<(u8, u8, u32, Vec<u8>)>, Vec<Asked>) {
    let mut client = Client::connect_open(|_| builder(), &[], open).await;
    client.say(&say(asks).0).await;
    let mut unused = 2 * asks.len() as u32 + 1;
    if open == Open::Stay {
        client.say(&frame(HEADERS, END_HEADERS, unused, POST)).await;
        unused += 2;
    }
    client.read_all().await;
    for _ in 0..moves {
        client.moves().await;
    }
    let said: Vec<_> = frames
        .iter()
        .flat_map(|(kind, flags, stream, payload)| {
            let stream = if *stream == 0 { 0 } else { unused + stream - 1 };
            frame(*kind, *flags, stream, payload)
        })
        .collect();
    client.say(&said).await;
    let mut heard = client.read_all().await;
    // The one that stays behind may end with what its connection goes through.
    heard.retain(|frame| frame.stream == 0 || frame.stream >= unused);
    // It has to acknowledge settings, too, which an error can come before.
    let ends = kinds(&heard).contains(&GOAWAY) && open == Open::Stay;
    heard.retain(|frame| !ends || (frame.kind, frame.flags) != (SETTINGS, END));
    let told = reaction(heard);
    let mut seen = client.seen.lock().unwrap().clone();
    seen.sort();
    client.ended().await;
    (told, seen)
}

/// Frames of new streams and of none: a server that the connection has come to says and does what the first
/// one would. (Streams that are over are known to the first one alone.)
#[test]
fn any_frames_are_answered_as_without_a_move() {
    any_frames(2, Open::End);
}

#[test]
fn any_frames_are_answered_as_if_no_stream_was_left_behind() {
    any_frames(1, Open::Stay);
}

fn any_frames(moves: usize, open: Open) {
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    // So few requests that nothing leaves the table: what left it is known for a while longer after a move.
    let few = prop::collection::vec(asks(), 0..3).prop_map(|mut all| {
        all.iter_mut().for_each(|asks| asks.sizes.clear());
        all
    });
    let refused = std::cell::Cell::new(0);
    // A client that says GOAWAY while all its streams are those of the version before is told the same by a
    // server that has none, at once. What is relayed goes on: see `a_server_that_drains_relays_to_the_end`.
    let one = any_frame().prop_filter("it stays", move |frame| open == Open::End || frame.0 != GOAWAY);
    proptest!(config, |(asks in few, frames in prop::collection::vec(one, 1..5))| {
        let run = |moves| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
            runtime.unwrap().block_on(react(&asks, moves, open, &frames))
        };
        let (without, with) = (run(0), run(moves));
        refused.set(refused.get() + usize::from(without.0.iter().any(|told| told.0 == GOAWAY)));
        prop_assert_eq!(without, with);
    });
    assert!(refused.get() > 50, "hardly anything was refused: {}", refused.get());
}
