//! Bytes and messages: what arrives is a message, an error, or not there yet; never a panic, never without a
//! limit.

use hotupdate_proto::frame::{
    BINARY, Decoder, FrameError, MAX_MESSAGE, decode, decode_message, encode, encode_message,
};
use hotupdate_proto::message::{Join, MAX_DESCRIPTORS, Message, Ready};
use hotupdate_proto::operator::Call;
use hotupdate_proto::{ListenerItem, ListenerKind};
use proptest::prelude::*;

use crate::arbitrary::message;

fn item(name: &str) -> ListenerItem {
    let kind = ListenerKind::Tcp;
    ListenerItem { name: name.to_owned(), kind, address: "[::1]:80".to_owned(), cookie: u64::MAX }
}

fn listeners(count: usize) -> Message {
    Message::Listeners { batch: 1, items: vec![item("http"); count] }
}

/// Without its NUL.
fn frame(message: &Message) -> Vec<u8> {
    let mut bytes = encode_message(message).expect("it can be sent");
    assert_eq!(bytes.pop(), Some(0));
    bytes
}

fn with(message: &Message, from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(frame(message)).expect("JSON is text");
    assert!(text.contains(from), "{text}");
    text.replacen(from, to, 1).into_bytes()
}

// ---- cutting ------------------------------------------------------------------------------------------

#[test]
fn a_message_that_is_cut_anywhere_arrives_whole() {
    let bytes = encode_message(&listeners(2)).unwrap();
    for cut in 0..bytes.len() {
        let mut decoder = Decoder::default();
        decoder.push(&bytes[..cut]);
        assert_eq!(decoder.next_frame(), None, "{cut}");
        assert_eq!(decoder.unread(), &bytes[..cut]);
        decoder.push(&bytes[cut..]);
        let frame = decoder.next_frame().unwrap().unwrap();
        assert_eq!(decode_message(&frame), Ok(listeners(2)));
        assert_eq!(decoder.next_frame(), None);
        assert!(decoder.unread().is_empty());
    }
}

#[test]
fn two_in_one_push_are_two() {
    let mut bytes = encode_message(&Message::EndProbation).unwrap();
    bytes.extend(encode_message(&Message::LetGo).unwrap());
    bytes.extend(b"{\"ty");
    let mut decoder = Decoder::default();
    decoder.push(&bytes);
    let mut next = || decode_message(&decoder.next_frame().unwrap().unwrap());
    assert_eq!((next(), next()), (Ok(Message::EndProbation), Ok(Message::LetGo)));
    assert_eq!(decoder.next_frame(), None);
    assert_eq!(decoder.unread(), b"{\"ty");
}

#[test]
fn the_longest_message_and_one_byte_more() {
    let mut bytes = vec![b' '; MAX_MESSAGE];
    for end in [None, Some(0)] {
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        assert_eq!(decoder.next_frame(), None, "the NUL may still come");
        decoder.push(end.as_slice());
        assert_eq!(
            decoder.next_frame().map(|frame| frame.map(|bytes| bytes.len())),
            end.map(|_| Ok(MAX_MESSAGE))
        );
    }
    bytes.push(b' ');
    for end in [None, Some(0)] {
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        decoder.push(end.as_slice());
        assert_eq!(decoder.next_frame(), Some(Err(FrameError::TooLong)));
        assert_eq!(decoder.next_frame(), Some(Err(FrameError::TooLong)), "and it stays so");
    }
}

/// Two whole messages of which only the second is too long.
#[test]
fn what_came_before_a_message_that_is_too_long_is_still_there() {
    let mut decoder = Decoder::default();
    decoder.push(&encode_message(&Message::EndProbation).unwrap());
    decoder.push(&vec![b'x'; MAX_MESSAGE + 1]);
    assert!(matches!(decoder.next_frame(), Some(Ok(_))));
    assert_eq!(decoder.next_frame(), Some(Err(FrameError::TooLong)));
}

#[test]
fn what_is_too_long_is_not_sent() {
    let ready = |length| Message::Ready(Ready { adopted: vec!["x".repeat(length)], ..Ready::default() });
    let rest = frame(&ready(0)).len();
    assert_eq!(frame(&ready(MAX_MESSAGE - rest)).len(), MAX_MESSAGE);
    assert_eq!(encode_message(&ready(MAX_MESSAGE - rest + 1)), Err(FrameError::TooLong));
    assert_eq!(encode(&"x".repeat(MAX_MESSAGE)), Err(FrameError::TooLong), "the quotes are too many");
}

#[test]
fn a_lone_nul_is_an_empty_frame_and_no_message() {
    let mut decoder = Decoder::default();
    decoder.push(b"\0\0");
    for _ in 0..2 {
        let frame = decoder.next_frame().unwrap().unwrap();
        assert!(frame.is_empty());
        assert!(matches!(decode_message(&frame), Err(FrameError::Invalid(_))));
    }
    assert_eq!(decoder.next_frame(), None);
}

// ---- content ------------------------------------------------------------------------------------------

#[test]
fn an_unknown_type_is_an_error_and_an_unknown_field_is_not() {
    let error = decode_message(br#"{"type":"teleport"}"#).unwrap_err();
    assert!(error.to_string().contains("teleport"), "{error}");
    assert!(matches!(decode_message(br#"{"batch":1}"#), Err(FrameError::Invalid(_))), "no type");
    assert!(
        matches!(decode_message(br#"{"type":"received"}"#), Err(FrameError::Invalid(_))),
        "a field is missing"
    );
    let later = br#"{"type":"received","batch":1,"colour":{"red":[1,2]}}"#;
    assert_eq!(decode_message(later), Ok(Message::Received { batch: 1 }));
    let nested = with(&listeners(1), r#""name""#, r#""backlog":9,"name""#);
    assert_eq!(decode_message(&nested), Ok(listeners(1)));
    let call: Call = decode(br#"{"method":"io.hotupdate.Status","later":true}"#).unwrap();
    assert_eq!(call.method, "io.hotupdate.Status");
}

#[test]
fn the_descriptors_it_says_are_those_it_owns() {
    assert_eq!(decode_message(&frame(&listeners(3))), Ok(listeners(3)));
    let count = |owns, says| Err(FrameError::Descriptors { name: "listeners", owns, says });
    assert_eq!(decode_message(&with(&listeners(3), r#""fds":3"#, r#""fds":2"#)), count(3, 2));
    assert_eq!(decode_message(&with(&listeners(3), r#""fds":3,"#, "")), count(3, 0));
    let none = br#"{"fds":1,"type":"end_probation"}"#;
    assert_eq!(
        decode_message(none),
        Err(FrameError::Descriptors { name: "end_probation", owns: 0, says: 1 })
    );
    for wrong in [r#""fds":-1"#, r#""fds":1.5"#, r#""fds":"3""#, r#""fds":99999999999999999999999"#] {
        let bytes = with(&listeners(3), r#""fds":3"#, wrong);
        assert!(matches!(decode_message(&bytes), Err(FrameError::Invalid(_))), "{wrong}");
    }
}

#[test]
fn at_most_so_many_descriptors() {
    assert_eq!(decode_message(&frame(&listeners(MAX_DESCRIPTORS))), Ok(listeners(MAX_DESCRIPTORS)));
    let too_many = Err(FrameError::TooManyDescriptors(MAX_DESCRIPTORS + 1));
    assert_eq!(encode_message(&listeners(MAX_DESCRIPTORS + 1)), too_many);
    let items = vec![item("http"); MAX_DESCRIPTORS + 1];
    let json = serde_json::json!({ "fds": items.len(), "type": "listeners", "batch": 1, "items": items });
    let error = decode_message(json.to_string().as_bytes()).unwrap_err();
    assert_eq!(error, FrameError::TooManyDescriptors(MAX_DESCRIPTORS + 1));
}

#[test]
fn garbage_is_an_error() {
    let half = frame(&listeners(1));
    let wrong: [&[u8]; 13] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\"type\"",
        b"{}{}",
        b"GET / HTTP/1.1\r\n",
        b"\xff\xfe\x00\x01",
        b"{\"type\":\"failed\",\"reason\":\"\xff\"}",
        b"{\"type\":\"failed\",\"reason\":\"\\ud800\"}",
        b"{\"type\":\"hurry\",\"deadline_ms\":1e400}",
        b"{\"type\":\"hurry\",\"deadline_ms\":18446744073709551616}",
        &half[..half.len() - 1],
    ];
    for bytes in wrong {
        assert!(
            matches!(decode_message(bytes), Err(FrameError::Invalid(_))),
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }
}

/// serde_json stops at 128 levels; the stack of the process that reads is not the limit.
#[test]
fn deep_nesting_is_an_error() {
    let deep = 100_000;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = open.repeat(deep) + "1" + &close.repeat(deep);
        let unknown = format!(r#"{{"type":"end_probation","later":{nested}}}"#);
        assert!(unknown.len() < MAX_MESSAGE);
        assert!(matches!(decode_message(unknown.as_bytes()), Err(FrameError::Invalid(_))));
        assert!(matches!(decode::<serde_json::Value>(nested.as_bytes()), Err(FrameError::Invalid(_))));
        assert!(matches!(decode::<Join>(nested.as_bytes()), Err(FrameError::Invalid(_))));
        let call = format!(r#"{{"method":"x","parameters":{{"a":{nested}}}}}"#);
        assert!(matches!(decode::<Call>(call.as_bytes()), Err(FrameError::Invalid(_))));
    }
}

// ---- anything -----------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_comes_back_as_it_was(message in message()) {
        prop_assume!(message.descriptors() <= MAX_DESCRIPTORS);
        prop_assert_eq!(decode_message(&frame(&message)), Ok(message));
    }

    /// However the stream is cut, the same messages come out, in their order.
    #[test]
    fn a_stream_can_be_cut_anywhere(
        messages in prop::collection::vec(message(), 0..6),
        cuts in prop::collection::vec(1_usize..200, 1..20),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| encode_message(message).unwrap()).collect();
        let (mut decoder, mut heard, mut rest) = (Decoder::default(), Vec::new(), &bytes[..]);
        for length in cuts.iter().cycle() {
            let (piece, left) = rest.split_at((*length).min(rest.len()));
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame() {
                heard.push(decode_message(&frame.unwrap()).unwrap());
            }
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(heard, messages);
        prop_assert!(decoder.unread().is_empty());
    }

    /// Arbitrary bytes, and messages with one byte changed: an error or a message, and nothing else.
    #[test]
    fn no_bytes_are_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        message in message(),
        at in any::<usize>(),
        byte in any::<u8>(),
    ) {
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        while let Some(Ok(frame)) = decoder.next_frame() {
            let _any = decode_message(&frame);
            prop_assert!(frame.first() == Some(&BINARY) || !frame.contains(&0));
        }
        let mut changed = frame(&message);
        let at = at % changed.len();
        changed[at] = byte;
        if let Ok(message) = decode_message(&changed) {
            prop_assert_eq!(decode_message(&frame(&message)), Ok(message));
        }
    }
}
