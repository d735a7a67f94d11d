//! A predecessor that hangs after it has offered a connection, and successors that want to take over
//! meanwhile.
//!
//! Deliberately absent: the same with whole processes
//! (`integration-tests/tests/connections/migration/hanging.rs`).

use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::json;

use crate::common::peer::Impostor;
use crate::common::{Folder, SOON, alone, eventually, patient};
use crate::impostor_descriptors::{connection, moving, serves};

/// A connection that is prepared here may be committed at any moment. A successor could not hear of that, so
/// there is none until the predecessor has committed or would abort.
#[test]
fn nothing_is_handed_over_while_an_offer_may_still_be_committed() {
    alone(async {
        let folder = Folder::new();
        let impostor = Impostor::at(&folder);
        let timing = patient().prepared(SOON).quiesce(Duration::from_millis(300));
        let (_second, mut first) = serves(folder.builder("v2").timing(timing), &impostor).await;
        let mut clients = Vec::new();
        let offered = connection(&mut clients);
        let items = [moving(1, offered.as_fd())];
        let prepare = json!({ "type": "prepare", "batch": 1, "items": items, "fds": 1 });
        first.say_with(&prepare, &[offered.as_fd()]).await;
        drop(offered);
        first.next_of("prepared").await;
        // The predecessor is known to hang from the first time on.
        for _ in 0..3 {
            let mut third = folder.join("v3").await;
            let _listener = third.tcp("http", "127.0.0.1:0").await.unwrap();
            let error = third.ready().await.unwrap_err().to_string();
            assert!(error.contains("deadline `quiesce`"), "{error}");
        }
        first.say(&json!({ "type": "commit", "batch": 1 })).await;
        let mut client = clients.remove(0);
        client.set_nonblocking(true).unwrap();
        let served = async || client.read(&mut [0]).ok();
        assert_eq!(eventually("its new owner closes it", served).await, 0);
    });
}
