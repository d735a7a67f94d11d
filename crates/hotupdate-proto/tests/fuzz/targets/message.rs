//! Any bytes as any message: what can be read is written, and read again as the same.

use std::fmt::Debug;

use hotupdate_proto::frame::{FrameError, decode, decode_message, encode, encode_message};
use hotupdate_proto::message::{MAX_DESCRIPTORS, Ready, Released};
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
    let Ok(message) = decode_message(bytes) else { return };
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
