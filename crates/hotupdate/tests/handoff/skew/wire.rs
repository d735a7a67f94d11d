//! One end of a control connection: exact texts, and the descriptors that they own.
//!
//! Deliberately absent: the library. What reads and writes here has to stay what it is when the library
//! changes.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use sendfd::SendWithFd;
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Reads messages; see [`say`] for the other direction.
pub(crate) struct Wire {
    pub(crate) stream: Arc<UnixStream>,
    unread: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Wire {
    pub(crate) fn new(stream: Arc<UnixStream>) -> Self {
        Self { stream, unread: Vec::new(), descriptors: VecDeque::new() }
    }

    /// The next text without its NUL, and the descriptors that it says it owns; `None` at the end of the
    /// stream.
    pub(crate) async fn next(&mut self) -> Option<(String, Vec<OwnedFd>)> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == 0) {
                let frame: Vec<u8> = self.unread.drain(..=end).collect();
                let text = String::from_utf8(frame[..end].to_vec()).unwrap();
                let message: Value = serde_json::from_str(&text).unwrap();
                let owns = message["fds"].as_u64().map_or(0, |owns| usize::try_from(owns).unwrap());
                assert!(self.descriptors.len() >= owns, "{text} came with {}", self.descriptors.len());
                return Some((text, self.descriptors.drain(..owns).collect()));
            }
            self.stream.readable().await.unwrap();
            match self.stream.try_io(Interest::READABLE, || receive(&self.stream)) {
                Ok((bytes, _)) if bytes.is_empty() => return None,
                Ok((bytes, descriptors)) => {
                    self.unread.extend(bytes);
                    self.descriptors.extend(descriptors);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }
}

fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; 64 * 1024];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    bytes.truncate(received.bytes);
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    Ok((bytes, rights.flatten().collect()))
}

/// Says exactly this, with these descriptors on the first byte. That no process is there any more is no
/// failure: the other end may have ended.
pub(crate) async fn say(stream: &UnixStream, text: &str, descriptors: &[OwnedFd]) {
    let bytes = [text.as_bytes(), b"\0"].concat();
    let mut raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        match stream.send_with_fd(rest, &raw) {
            Ok(sent) => {
                rest = &rest[sent..];
                raw.clear();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await.unwrap(),
            Err(_) => return,
        }
    }
}
