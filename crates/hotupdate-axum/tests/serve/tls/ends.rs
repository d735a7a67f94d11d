//! Connections over TLS that do not migrate end politely.

use std::sync::Arc;

use hotupdate_axum::tls::Tls;

use super::world::{Identity, Secure};
use crate::server::{BRISK, MIGRATING, PATIENT, Times};

/// The next response says so, and the client finds close_notify behind it.
#[tokio::test]
async fn with_the_next_response() {
    let identity = Identity::new();
    let tls = || Tls::new(identity.server()).move_connections(true);
    let still = || Tls::new(identity.server());
    for (of_old, of_new, times) in [
        (still(), tls(), MIGRATING),
        (tls(), still(), MIGRATING),
        (still(), still(), MIGRATING),
        (tls(), tls(), PATIENT),
    ] {
        let old = Secure::start(times, of_old).await;
        let mut client = old.client(&Arc::new(identity.client())).await;
        client.is_answered_by("old").await;
        let new = old.hand_off("new", times, of_new).await;
        let answer = client.get("/").await;
        assert_eq!((answer.body.as_str(), answer.says_close()), ("old", true));
        client.ends().await;
        drop(client);
        assert_eq!((old.drained().await, new.hot.connections().adopted()), (0, 0));
    }
}

#[tokio::test]
async fn a_silent_client_after_the_grace() {
    let identity = Identity::new();
    let old = Secure::start(BRISK, Tls::new(identity.server())).await;
    let mut client = old.client(&Arc::new(identity.client())).await;
    client.is_answered_by("old").await;
    let _new = old.hand_off("new", BRISK, Tls::new(identity.server())).await;
    client.ends().await;
    drop(client);
    assert_eq!(old.drained().await, 0);
}

/// A connection is never taken for another kind: not one with TLS for one without, nor the other way round.
#[tokio::test]
async fn when_the_listener_has_tls_in_one_version_alone() {
    let identity = Identity::new();
    let times = Times { ..MIGRATING };
    let tls = || Tls::new(identity.server()).move_connections(true);
    let old = Secure::start(times, tls()).await;
    let mut client = old.client(&Arc::new(identity.client())).await;
    client.is_answered_by("old").await;
    let bare = old.hand_off_to("bare", times, |serve, _| serve).await;
    let answer = client.get("/").await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("old", true));
    client.ends().await;
    drop(client);
    assert_eq!((old.drained().await, bare.hot.connections().adopted()), (0, 0));

    let mut client = crate::client::Client::connect(bare.address).await;
    assert_eq!(client.get("/whether").await.body, "false");
    let again = bare.hand_off("tls", times, tls()).await;
    let answer = client.get("/").await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("bare", true));
    client.ends().await;
    drop(client);
    assert_eq!((bare.drained().await, again.hot.connections().adopted()), (0, 0));
}
