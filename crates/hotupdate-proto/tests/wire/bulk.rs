//! Many connections in one frame: byte for byte as its documentation says, and never a panic, whatever comes.

use hotupdate_proto::frame::{Decoder, FrameError, MAX_MESSAGE, decode_message, encode_message};
use hotupdate_proto::message::{MAX_DESCRIPTORS, Message};
use hotupdate_proto::migration::{ConnectionKind, Endpoint, MAX_BATCH_STATE, bulk};
use hotupdate_proto::{Inbound, MigrationItem};
use proptest::prelude::*;

use crate::arbitrary::moving;

fn item(id: u64) -> MigrationItem {
    MigrationItem {
        id,
        cookie: 0x0102_0304,
        kind: "http/1.1".into(),
        listener: "http".into(),
        protocol: "http/1.1".into(),
        peer: "10.0.0.1:258".parse().unwrap(),
        local: Endpoint::default(),
        age_ms: 5,
        requests: 6,
        state: vec![0, 255].into(),
    }
}

/// Written by hand from the documentation, as a stranger would.
fn by_hand() -> Vec<u8> {
    let mut body = vec![1]; // form
    body.extend(9_u32.to_le_bytes()); // batch
    body.extend(1_u16.to_le_bytes()); // one connection
    body.extend(7_u64.to_le_bytes()); // its id
    body.extend(0x0102_0304_u64.to_le_bytes()); // its cookie
    body.extend(3_u16.to_le_bytes()); // texts
    for text in ["http/1.1", "http", ""] {
        body.extend(u16::try_from(text.len()).expect("it is short").to_le_bytes());
        body.extend(text.as_bytes());
    }
    body.extend([0, 0, 1, 0, 0, 0]); // kind, listener, protocol
    body.extend([4, 10, 0, 0, 1, 2, 1]); // the client
    body.extend([0, 2, 0]); // an unnamed Unix socket
    body.extend(5_u64.to_le_bytes());
    body.extend(6_u64.to_le_bytes());
    body.extend(2_u32.to_le_bytes());
    body.extend([0, 255]);
    framed(&body)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("it is short");
    [&[1], &length.to_le_bytes()[..], body].concat()
}

fn one(item: MigrationItem) -> Message {
    Message::Prepare { batch: 9, items: vec![item] }
}

#[test]
fn it_is_written_as_it_is_documented() {
    assert_eq!(bulk::encode(9, &[item(7)]).unwrap(), by_hand());
    assert_eq!(decode_message(&by_hand()), Ok(one(item(7))));
    let scoped = MigrationItem { peer: "[fe80::1%3]:80".parse().unwrap(), ..item(7) };
    let frame = bulk::encode(9, std::slice::from_ref(&scoped)).unwrap();
    let peer = [6, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 80, 0, 3, 0, 0, 0];
    assert!(frame.windows(peer.len()).any(|bytes| bytes == peer), "{frame:?}");
    assert_eq!(decode_message(&frame), Ok(one(scoped)));
}

#[test]
fn texts_are_written_once_and_a_connection_takes_few_bytes() {
    let items: Vec<_> = (0..250).map(item).collect();
    let length = bulk::encode(1, &items).unwrap().len();
    assert!(length < 250 * 56, "{length}");
}

/// What a later version has to say in a form of its own: which connections it is about is known, and they
/// stay where they are.
#[test]
fn of_an_unknown_form_the_connections_are_known_and_nothing_else() {
    let mut frame = by_hand();
    for form in [0, 2, 255] {
        frame[5] = form;
        let unknown = MigrationItem { id: 7, cookie: 0x0102_0304, ..MigrationItem::default() };
        assert_eq!(decode_message(&frame), Ok(one(unknown)));
    }
    let kinds = [ConnectionKind::new("http/1.1", None)];
    let mut inbound = Inbound::default();
    inbound.announce(&kinds);
    let Ok(Message::Prepare { batch, items }) = decode_message(&frame) else { unreachable!("see above") };
    assert!(!kinds.iter().any(|kind| items[0].kind == kind.kind), "no handler fits");
    #[allow(clippy::disallowed_methods, reason = "one origin for virtual time")]
    let now = std::time::Instant::now();
    assert_eq!(inbound.prepare(now, batch, items).unwrap().len(), 1, "it is inspected, and refused");
}

#[test]
fn half_a_batch_is_an_error_at_every_byte() {
    let whole = by_hand();
    for cut in 0..whole.len() {
        let mut decoder = Decoder::default();
        decoder.push(&whole[..cut]);
        assert_eq!(decoder.next_frame(), None, "{cut}");
        decoder.push(&whole[cut..]);
        assert_eq!(decoder.next_frame(), Some(Ok(whole.clone())));
        // One that says that this is all.
        let body = whole.get(5..cut).unwrap_or_default();
        assert!(matches!(decode_message(&framed(body)), Err(FrameError::Invalid(_))), "{cut}");
    }
    let more = [&whole[5..], &[0]].concat();
    let error = decode_message(&framed(&more)).unwrap_err();
    assert!(error.to_string().contains("more than its connections"), "{error}");
    assert!(matches!(decode_message(&[1]), Err(FrameError::Invalid(_))), "not even a length");
}

#[test]
fn what_is_wrong_with_a_batch_is_said() {
    let whole = by_hand();
    let at = |from: &[u8]| whole.windows(from.len()).position(|bytes| bytes == from).unwrap();
    for (what, place, byte) in [
        ("a text that is no UTF-8", at(b"http/1.1"), 0xff),
        ("a text that is not there", at(&[0, 0, 1, 0, 0, 0, 4]), 3),
        ("an address of no known family", at(&[4, 10, 0, 0, 1]), 5),
    ] {
        let mut changed = whole.clone();
        changed[place] = byte;
        let error = decode_message(&changed).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn every_list_has_a_limit() {
    let most: Vec<_> = (0..250).map(item).collect();
    let frame = bulk::encode(1, &most).unwrap();
    assert_eq!(decode_message(&frame), Ok(Message::Prepare { batch: 1, items: most.clone() }));
    let too_many = FrameError::TooManyDescriptors(MAX_DESCRIPTORS + 1);
    assert_eq!(bulk::encode(1, &[most, vec![item(0)]].concat()), Err(too_many.clone()));
    let body = [&[1, 0, 0, 0, 0, 251, 0], &[0; 251 * 16][..]].concat();
    assert_eq!(decode_message(&framed(&body)), Err(too_many));
    let state = |bytes| vec![MigrationItem { state: vec![0; bytes].into(), ..item(1) }];
    let frame = bulk::encode(1, &state(MAX_BATCH_STATE)).unwrap();
    assert!(decode_message(&frame).is_ok());
    let frame = bulk::encode(1, &state(MAX_BATCH_STATE + 1)).unwrap();
    assert!(decode_message(&frame).unwrap_err().to_string().contains("more state"));
    assert_eq!(bulk::encode(1, &state(MAX_MESSAGE)), Err(FrameError::TooLong));
    let endless = MigrationItem { kind: "x".repeat(1 << 16).into(), ..item(1) };
    assert_eq!(bulk::encode(1, &[endless]), Err(FrameError::TooLong));
}

#[test]
fn one_that_is_too_long_is_found_at_its_head() {
    for (length, is_too_long) in [(MAX_MESSAGE, false), (MAX_MESSAGE + 1, true), (u32::MAX as usize, true)] {
        let mut decoder = Decoder::default();
        decoder.push(&[&[1], &u32::try_from(length).unwrap().to_le_bytes()[..]].concat());
        for _ in 0..2 {
            assert_eq!(decoder.next_frame(), is_too_long.then_some(Err(FrameError::TooLong)), "{length}");
        }
    }
}

#[test]
fn before_and_behind_it_is_json() {
    let text = encode_message(&Message::Commit { batch: 8 }).unwrap();
    let stream = [&text[..], &by_hand(), &by_hand(), &text].concat();
    let mut decoder = Decoder::default();
    let mut heard = Vec::new();
    for byte in stream {
        decoder.push(&[byte]);
        while let Some(frame) = decoder.next_frame() {
            heard.push(decode_message(&frame.unwrap()).unwrap());
        }
    }
    let commit = Message::Commit { batch: 8 };
    assert_eq!(heard, [commit.clone(), one(item(7)), one(item(7)), commit]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_batch_comes_back_as_it_was(
        batch in any::<u32>(),
        items in prop::collection::vec(moving(), 0..8),
    ) {
        let frame = bulk::encode(batch, &items).unwrap();
        prop_assert_eq!(decode_message(&frame), Ok(Message::Prepare { batch, items }));
    }

    /// One byte changed: an error or a batch, and nothing else.
    #[test]
    fn no_byte_is_a_panic(
        items in prop::collection::vec(moving(), 1..4),
        at in any::<usize>(),
        byte in any::<u8>(),
    ) {
        let mut frame = bulk::encode(1, &items).unwrap();
        let at = 5 + at % (frame.len() - 5);
        frame[at] = byte;
        if let Ok(Message::Prepare { batch, items }) = decode_message(&frame) {
            let again = bulk::encode(batch, &items).unwrap();
            prop_assert_eq!(decode_message(&again), Ok(Message::Prepare { batch, items }));
        }
    }
}
