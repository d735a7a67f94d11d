//! Any bytes as any message: what can be read is written, and read again as the same.

use std::fmt::Debug;
use std::net::SocketAddr;

use hotupdate_proto::frame::{BINARY, Decoder, FrameError, decode, decode_message, encode, encode_message};
use hotupdate_proto::message::{MAX_DESCRIPTORS, Ready, Released};
use hotupdate_proto::migration::{Endpoint, MAX_BATCH_STATE, bulk};
use hotupdate_proto::operator::{Call, Connections, DeadlineParams, HandoffResult, Monitored, Reply, Status};
use hotupdate_proto::{Join, Joined, Message, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) fn check(bytes: &[u8]) {
    link(bytes);
    round::<Join>(bytes);
    round::<Joined>(bytes);
    round::<Refusal>(bytes);
    round::<Ready>(bytes);
    round::<Released>(bytes);
    round::<Call>(bytes);
    round::<Reply>(bytes);
    round::<DeadlineParams>(bytes);
    round::<Status>(bytes);
    round::<Monitored>(bytes);
    round::<Connections>(bytes);
    round::<HandoffResult>(bytes);
}

fn link(bytes: &[u8]) {
    binary(bytes);
    // A fuzzer should not have to find out the length.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    binary(&[&[BINARY], &length[..], bytes].concat());
    let Ok(message) = decode_message(bytes) else { return };
    if bytes[0] == BINARY {
        return;
    }
    assert!(message.descriptors() <= MAX_DESCRIPTORS);
    let frame = unterminated(encode_message(&message).expect("it was short enough before"));
    assert_eq!(decode_message(&frame).as_ref(), Ok(&message));
    assert_eq!(encode_message(&message).map(unterminated), Ok(frame.clone()));
    let json: serde_json::Value = decode(&frame).expect("a message is JSON");
    assert_eq!(json["type"], message.name());
    // What operators read: every number that a process says is shown.
    if let Message::Progress { connections, totals, .. } = message {
        let _ =
            (connections.to_string(), connections.open(), totals.open(), totals.ended(), totals.entered());
    }
}

/// Many connections in one frame: the same in the form that is written here, and in JSON.
fn binary(bytes: &[u8]) {
    if bytes.first() != Some(&BINARY) {
        return;
    }
    let Ok(message) = decode_message(bytes) else { return };
    let Message::Prepare { batch, items } = &message else { panic!("{message:?} is written in JSON") };
    assert!(items.len() <= MAX_DESCRIPTORS);
    assert!(items.iter().map(|item| item.state.len()).sum::<usize>() <= MAX_BATCH_STATE);
    let frame = bulk::encode(*batch, items).expect("it was short enough before");
    assert!(frame.len() <= bytes.len().max(5 + 1 + 4 + 2 + items.len() * 64 + 4));
    assert_eq!(decode_message(&frame).as_ref(), Ok(&message));
    let mut decoder = Decoder::default();
    decoder.push(&frame);
    assert_eq!(decoder.next_frame(), Some(Ok(frame)));
    assert!(decoder.unread().is_empty());
    // In JSON every text is written as often as it is said, and a path may look like an address there.
    let is_plain = |end: &Endpoint| matches!(end, Endpoint::Unix(path) if path.parse::<SocketAddr>().is_ok());
    let is_misread = items.iter().any(|item| is_plain(&item.peer) || is_plain(&item.local));
    match encode_message(&message).map(unterminated) {
        Ok(json) if !is_misread => assert_eq!(decode_message(&json).as_ref(), Ok(&message)),
        Ok(_) | Err(FrameError::TooLong) => {}
        Err(error) => panic!("{error}"),
    }
}

fn round<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(value) = decode::<T>(bytes) else { return };
    let frame = unterminated(encode(&value).expect("it was short enough before"));
    assert_eq!(decode::<T>(&frame), Ok::<_, FrameError>(value));
}

fn unterminated(mut frame: Vec<u8>) -> Vec<u8> {
    assert_eq!(frame.pop(), Some(0));
    assert!(!frame.contains(&0), "a NUL ends a message wherever it stands");
    frame
}
