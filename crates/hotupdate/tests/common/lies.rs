//! An incumbent that lies, and what has to come of it.
//!
//! Deliberately absent: the lies.

use std::os::fd::AsFd;

use hotupdate::{Error, ErrorKind, Timing};

use super::peer::{Impostor, Peer, control, listeners};
use super::{Folder, alone, ask, descriptors, nothing_leaked, replace_by};

/// An impostor does something while the library joins, and holds on to what the closure returns until that
/// has failed.
pub(crate) fn fails<T>(whose: ErrorKind, what: &str, lie: impl AsyncFnOnce(&Impostor) -> T) {
    fails_with(|_| {}, whose, what, lie);
}

pub(crate) fn fails_with<T>(
    change: impl FnOnce(&mut Timing),
    whose: ErrorKind,
    what: &str,
    lie: impl AsyncFnOnce(&Impostor) -> T,
) {
    let mut timing = Timing::default();
    change(&mut timing);
    alone(async {
        let folder = Folder::new();
        let before = descriptors();
        let impostor = Impostor::at(&folder);
        let builder = folder.builder("v2").timing(timing);
        let (joined, peer) = tokio::join!(builder.join(), lie(&impostor));
        is_clear(&folder, &joined.unwrap_err(), whose, what);
        drop((peer, impostor));
        recovers(&folder, before).await;
    });
}

pub(crate) fn is_clear(folder: &Folder, error: &Error, whose: ErrorKind, what: &str) {
    let text = error.to_string();
    assert_eq!(error.kind(), whose, "{text}");
    assert!(
        text.contains(&folder.control().display().to_string()),
        "{text:?} does not say what was being done"
    );
    assert!(text.contains(what) && !text.contains('\n'), "{text:?} does not say {what:?}");
}

/// Nothing is left, a first start works, and so does a handoff from it.
pub(crate) async fn recovers(folder: &Folder, before: usize) {
    nothing_leaked(before).await;
    let (first, address) = folder.serve("v1").await;
    assert_eq!((first.generation().0, ask(address).await.as_str()), (1, "v1"));
    replace_by(folder, &first, "v3").await;
}

/// Offers this as the listener `http`, with what would be true of the real one.
pub(crate) async fn offer(impostor: &Impostor, fd: impl AsFd) -> Peer {
    let mut peer = impostor.welcome().await;
    peer.say_with(&listeners(1, &[impostor.item("http")]), &[fd.as_fd()]).await;
    peer
}

/// The beginning that is not wrong, up to a complete inventory.
pub(crate) async fn honest(impostor: &Impostor) -> Peer {
    let mut peer = offer(impostor, &impostor.listener).await;
    assert_eq!(peer.next_of("received").await["batch"], 1);
    peer.say_with(&control(2), &impostor.control()).await;
    assert_eq!(peer.next_of("received").await["batch"], 2);
    peer
}
