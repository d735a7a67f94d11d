//! A connection that moves while streams are open, frame by frame.

use crate::raw::*;
use crate::world::{Open, builder};

async fn client(open: Open) -> Client {
    Client::connect_open(|_| builder(), &[], open).await
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_is_answered_where_it_was_opened_and_a_new_one_where_the_connection_is() {
    let mut client = client(Open::Stay).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.read_all().await;
    client.moves().await;
    assert_eq!(client.read_all().await, [], "it hears nothing of that");
    client.say(&frame(DATA, 0, 1, b"one ")).await;
    client.say(&frame(HEADERS, END | END_HEADERS, 3, &get("/", &[]))).await;
    assert_answered(&client.read_all().await, 3, b"");
    client.say(&frame(DATA, END, 1, b"two")).await;
    assert_answered(&client.read_all().await, 1, b"one two");
    client.say(&frame(HEADERS, END | END_HEADERS, 5, &get("/", &[]))).await;
    assert_answered(&client.read_all().await, 5, b"");
    client.ends_after(1).await;
}
