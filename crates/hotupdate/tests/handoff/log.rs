//! The log of a handoff: every line has its name, on both sides, from `Join` to the end of the drain.

use crate::common::peer::Peer;
use crate::common::{Folder, Log, SOON, eventually, serve};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Both sides are in this process, so each line of either log has to have the name.
#[tokio::test]
async fn every_line_about_a_handoff_names_it() {
    let folder = Folder::new();
    let (first, address) = folder.serve("v1").await;
    let client = TcpStream::connect(address).await.unwrap();
    eventually("it is accepted", async || (first.connections().accepted() == 1).then_some(())).await;
    let (log, _guard) = Log::begin();
    let starting = folder.builder("v2").probation(SOON).join().await.unwrap();
    let (second, _) = serve(starting, "v2").await;
    drop(client);
    timeout(SOON, first.drained()).await.expect("a drain ends");
    eventually("it is told", async || log.text().contains("a predecessor is drained").then_some(())).await;
    let text = log.text();
    let name = text.split("handoff=").nth(1).expect("a name").split('}').next().unwrap();
    assert!(text.lines().all(|line| line.contains(&format!("handoff{{handoff={name}}}:"))), "{text}");
    for line in ["a successor joined", "joined incumbent", "listener name", "handed over", "serving"] {
        log.says(&[line]);
    }
    log.says(&["a predecessor is drained", "migrated=0", "finished=1", "closed=0", "forced=0"]);

    // The next one has another name, and is taken back under that name by both sides.
    let begin = log.text().len();
    let (third, _) = folder.serve("v3").await;
    let mut peer = Peer::connect(&folder.control()).await;
    peer.say(&json!({ "method": "io.hotupdate.Rollback" })).await;
    assert!(peer.next().await.unwrap()["error"].is_null());
    timeout(SOON, third.drained()).await.expect("a drain ends");
    eventually("it is told", async || log.text()[begin..].contains("a predecessor is drained").then_some(()))
        .await;
    let text = log.text()[begin..].to_owned();
    let next = text.split("handoff=").nth(1).expect("a name").split('}').next().unwrap();
    assert_ne!(name, next);
    assert!(text.lines().all(|line| line.contains(&format!("handoff{{handoff={next}}}:"))), "{text}");
    drop(second);
}
