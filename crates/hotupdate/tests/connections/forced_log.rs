//! What a process says of connections that it closes at the deadline of its drain: which they were.

use std::time::Duration;

use crate::common::{self, Folder, Log, SOON, serve};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test]
async fn who_is_closed_at_the_deadline_is_named_by_the_process_that_does_it() {
    let folder = Folder::new();
    let starting = folder.builder("v1").drain_deadline(Duration::ZERO).join().await.unwrap();
    let (first, address) = serve(starting, "v1").await;
    let client = TcpStream::connect(address).await.unwrap();
    common::eventually("it is accepted", async || (first.connections().accepted() == 1).then_some(())).await;
    let (log, _guard) = Log::begin();
    let (_second, _) = folder.serve("v2").await;
    timeout(SOON, first.drained()).await.expect("a drain ends");
    let peer = client.local_addr().unwrap().to_string();
    log.says(&["WARN handoff{", "a connection is closed at the deadline of the drain", "peer=", &peer]);
    log.says(&["INFO handoff{", "drained", "migrated=0", "finished=0", "closed=0", "forced=1"]);
}
