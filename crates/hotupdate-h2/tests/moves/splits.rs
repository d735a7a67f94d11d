//! A connection that moves while streams are open, frame by frame.

use std::time::Duration;

use hotupdate_h2::Stays;

use crate::raw::*;
use crate::world::{Open, Versions, builder};

const GOES: u8 = END | END_HEADERS;

/// `:path /stream`, `:method POST`: what is sent comes back at once.
const STREAM: &[u8] = b"\x83\x86\x04\x07/stream";

async fn client(open: Open) -> Client {
    Client::connect_open(|_| builder(), &[], open).await
}

/// Asks on a new stream, and is answered.
async fn asks(client: &mut Client, stream: u32) {
    client.say(&frame(HEADERS, GOES, stream, &get("/", &[]))).await;
    assert_answered(&client.read_all().await, stream, b"");
}

/// Streams 1 and 3 end, and the connection goes on with the next.
async fn ends_both(mut client: Client) {
    for stream in [1, 3] {
        client.say(&frame(DATA, END, stream, b"")).await;
    }
    client.read_all().await;
    asks(&mut client, 5).await;
    client.ends_after(1).await;
}

/// Opens a stream whose answer has begun.
async fn opens(client: &mut Client, stream: u32) {
    client.say(&frame(HEADERS, END_HEADERS, stream, STREAM)).await;
    assert_eq!(kinds(&client.read_all().await), [HEADERS]);
}

fn window_update(stream: u32, room: usize) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &(room as u32).to_be_bytes())
}

/// The bytes of DATA of a stream, or of all.
fn data(heard: &[Frame], stream: Option<u32>) -> usize {
    let of_it = heard.iter().filter(|f| f.kind == DATA && stream.is_none_or(|stream| f.stream == stream));
    of_it.map(|f| f.payload.len()).sum()
}

fn ends(heard: &[Frame], stream: u32) -> bool {
    heard.iter().any(|f| f.stream == stream && f.kind <= HEADERS && f.flags & END != 0)
}

fn reset(stream: u32, code: u32) -> Frame {
    Frame { kind: RST_STREAM, flags: 0, stream, payload: code.to_be_bytes().to_vec() }
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_is_answered_where_it_was_opened_and_a_new_one_where_the_connection_is() {
    let mut client = client(Open::Stay).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.read_all().await;
    client.moves().await;
    assert_eq!(client.read_all().await, [], "it hears nothing of that");
    client.say(&frame(DATA, 0, 1, b"one ")).await;
    asks(&mut client, 3).await;
    client.say(&frame(DATA, END, 1, b"two")).await;
    assert_answered(&client.read_all().await, 1, b"one two");
    asks(&mut client, 5).await;
    client.ends_after(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_with_an_open_stream_hears_not_a_byte_of_what_is_decided() {
    for open in [Open::Stay, Open::Return, Open::Hesitate] {
        let mut client = client(open).await;
        opens(&mut client, 1).await;
        for _ in 0..10 {
            client.moves().await;
            assert_eq!(client.read_all().await, [], "{open:?}");
        }
        client.say(&frame(DATA, END, 1, b"still there")).await;
        let heard = client.read_all().await;
        assert_eq!((data(&heard, Some(1)), ends(&heard, 1)), (11, true), "{open:?}: {heard:?}");
        asks(&mut client, 3).await;
        let ended = client.ended().await;
        assert!(ended.result.is_ok() && ended.stays.is_empty(), "{ended:?}");
        assert!((ended.moves >= 1) == (open == Open::Stay), "{ended:?}");
    }
}

/// A connection has two servers at most: what is still relayed keeps it where it is.
#[tokio::test(start_paused = true)]
async fn a_connection_moves_on_when_what_it_has_left_behind_is_over() {
    let mut client = client(Open::Stay).await;
    opens(&mut client, 1).await;
    client.moves().await;
    opens(&mut client, 3).await;
    client.moves().await;
    // It waits for the next server, which it does not come to while the first one still has a stream.
    client.say(&frame(HEADERS, GOES, 5, &get("/", &[]))).await;
    assert_eq!(client.read_all().await, []);
    client.say(&frame(DATA, END, 3, b"")).await;
    assert!(ends(&client.read_all().await, 3));
    client.say(&frame(DATA, END, 1, b"")).await;
    let heard = client.read_all().await;
    assert!(ends(&heard, 1));
    assert_answered(&heard, 5, b"");
    client.ends_after(2).await;
}

#[tokio::test(start_paused = true)]
async fn streams_are_left_behind_by_one_server_after_the_other() {
    let mut client = client(Open::Stay).await;
    for n in 0..10 {
        let stream = 4 * n + 1;
        opens(&mut client, stream).await;
        client.moves().await;
        asks(&mut client, stream + 2).await;
        client.say(&frame(DATA, END, stream, b"end")).await;
        let heard = client.read_all().await;
        assert_eq!((data(&heard, Some(stream)), ends(&heard, stream)), (3, true), "{heard:?}");
    }
    client.ends_after(10).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_of_several_frames_is_waited_for() {
    let mut client = client(Open::Stay).await;
    opens(&mut client, 1).await;
    client.say(&frame(HEADERS, 0, 3, &STREAM[..2])).await;
    client.read_all().await;
    client.moves().await;
    client.say(&frame(CONTINUATION, END_HEADERS, 3, &STREAM[2..])).await;
    assert_eq!(kinds(&client.read_all().await), [HEADERS], "the first server has answered that");
    let generations: Vec<_> = client.seen.lock().unwrap().iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(generations, ["/stream", "/stream"]);
    client.say(&frame(DATA, 0, 3, b"relayed")).await;
    assert_eq!(data(&client.read_all().await, Some(3)), 7);
    ends_both(client).await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_which_a_part_has_passed_is_waited_for() {
    let mut client = client(Open::Stay).await;
    opens(&mut client, 1).await;
    let bytes = frame(DATA, 0, 1, &[7; 1_000]);
    client.say(&bytes[..500]).await;
    client.read_all().await;
    client.moves().await;
    client.say(&bytes[500..]).await;
    let mut heard = client.read_all().await;
    client.say(&frame(DATA, END, 1, &[7; 1_000])).await;
    heard.extend(client.read_all().await);
    assert_eq!((data(&heard, Some(1)), ends(&heard, 1)), (2_000, true));
    client.ends_after(1).await;
}

/// A client that takes nothing of an answer does not keep it from moving, but for a whole head of several
/// frames.
#[tokio::test(start_paused = true)]
async fn what_the_client_has_not_taken_yet_travels() {
    for bytes in [40, 100, 5_000, 12_000, 20_000, 36_000, 52_000, 1 << 20] {
        for path in ["/head", "/big"] {
            let mut client = Client::connect_small(bytes, Open::Stay).await;
            client.say(&frame(HEADERS, GOES, 1, &get(path, &[]))).await;
            settle().await;
            client.moves().await;
            let mut heard = client.read_all().await;
            client.say(&window_update(0, 1 << 20)).await;
            client.say(&window_update(1, 1 << 20)).await;
            client.say(&frame(HEADERS, GOES, 3, &get("/", &[]))).await;
            heard.extend(client.read_all().await);
            assert_answered(&heard, 3, b"");
            assert_eq!(data(&heard, Some(1)), if path == "/big" { 300_000 } else { 0 }, "{bytes} {path}");
            assert!(path == "/head" || ends(&heard, 1));
            let began = heard.iter().position(|f| f.kind == HEADERS && f.stream == 1).unwrap();
            let more = heard[began..].iter().position(|f| f.flags & END_HEADERS != 0).unwrap();
            let kinds = kinds(&heard[began + 1..=began + more]);
            assert!(kinds.iter().all(|kind| *kind == CONTINUATION), "{bytes} {path}: {kinds:?}");
            client.ended().await;
        }
    }
}

/// Fields that the client's table has learnt on a stream of one server are understood by the other one, and no
/// answer refers to a table that its decoder does not have.
#[tokio::test(start_paused = true)]
async fn trailers_refer_to_what_another_stream_has_taught() {
    let mut client = client(Open::Stay).await;
    opens(&mut client, 1).await;
    client.moves().await;
    client.say(&frame(HEADERS, GOES, 3, &get("/", &learn("x-taught", "by 3")))).await;
    assert_answered(&client.read_all().await, 3, b"");
    client.say(&frame(HEADERS, GOES, 1, &[&b"\xbe"[..], &learn("x-own", "by 1")].concat())).await;
    let heard = client.read_all().await;
    assert!(ends(&heard, 1), "{heard:?}");
    let trailers = heard.iter().find(|f| f.kind == HEADERS).unwrap();
    assert!(trailers.payload[0] & 0xf0 == 0, "a literal that the table does not learn: {trailers:?}");
    client.say(&frame(HEADERS, GOES, 5, &get("/", b"\xbe\xbf"))).await;
    assert_answered(&client.read_all().await, 5, b"");
    let seen = client.seen.lock().unwrap().clone();
    let all = vec![("x-own".to_owned(), b"by 1".to_vec()), ("x-taught".to_owned(), b"by 3".to_vec())];
    assert_eq!(seen[2], ("trailers".to_owned(), all.clone()));
    assert_eq!(seen[3], ("/".to_owned(), all));
    client.ends_after(1).await;
}

/// The client's window: both servers send, and only what there is room for.
#[tokio::test(start_paused = true)]
async fn both_servers_together_send_no_more_than_the_client_has_room_for() {
    const ALL: usize = 100_000;
    // Streams have room, the connection has 65,535 bytes.
    let mut client = Client::connect_open(|_| builder(), &setting(4, 1 << 24), Open::Stay).await;
    opens(&mut client, 1).await;
    client.moves().await;
    client.say(&frame(HEADERS, GOES, 3, &get("/big", &[]))).await;
    for _ in 0..ALL / 10_000 {
        client.say(&frame(DATA, 0, 1, &[7; 10_000])).await;
    }
    let mut heard = client.read_all().await;
    let mut room = 65_535;
    assert_eq!(data(&heard, None), room, "all that there is");
    while data(&heard, None) < 300_000 + ALL {
        for given in [1, 9_999] {
            client.say(&window_update(0, given)).await;
            room += given;
            heard.extend(client.read_all().await);
            assert!(data(&heard, None) <= room, "{} bytes for {room}", data(&heard, None));
        }
        assert!(data(&heard, None) + 20_000 > room.min(300_000 + ALL), "it goes on: {room}");
    }
    assert_eq!((data(&heard, Some(1)), data(&heard, Some(3))), (ALL, 300_000));
    // Each has got back what the client has given for the other.
    client.say(&window_update(0, data(&heard, None) + 65_535 - room)).await;
    client.say(&frame(DATA, END, 1, b"")).await;
    client.read_all().await;
    client.say(&frame(HEADERS, GOES, 5, &get("/big", &[]))).await;
    heard = client.read_all().await;
    assert_eq!(data(&heard, None), 65_535, "it has the whole window");
    client.say(&window_update(0, 300_000)).await;
    heard.extend(client.read_all().await);
    assert_answered(&heard, 5, &[7; 300_000]);
    client.ends_after(1).await;
}

/// One server that says nothing for long does not keep the window from the other one, and a client that tells
/// only now and then what it has taken is sent all that it has room for.
#[tokio::test(start_paused = true)]
async fn a_quiet_stream_leaves_room_to_new_ones() {
    const BIG: usize = 300_000;
    let mut client = Client::connect_open(|_| builder(), &setting(4, 1 << 24), Open::Stay).await;
    client.say(&window_update(0, 10 * BIG - 65_535)).await;
    opens(&mut client, 1).await;
    client.moves().await;
    for streams in [3, 23, 43] {
        for n in 0..10 {
            let stream = streams + 2 * n;
            client.say(&frame(HEADERS, GOES, stream, &get("/big", &[]))).await;
            assert_answered(&client.read_all().await, stream, &[7; BIG]);
        }
        client.say(&window_update(0, 10 * BIG)).await;
    }
    // What the other one has used is not there twice.
    client.say(&frame(HEADERS, GOES, 63, &get("/big", &[]))).await;
    let heard = client.read_all().await;
    assert_answered(&heard, 63, &[7; BIG]);
    for _ in 0..200 {
        client.say(&frame(DATA, 0, 1, &[7; 16_000])).await;
        client.read_all().await;
    }
    client.say(&frame(HEADERS, GOES, 65, &get("/big", &[]))).await;
    assert_eq!(data(&client.read_all().await, Some(65)), 0, "there is no room");
    client.say(&window_update(0, 3 * BIG)).await;
    client.say(&frame(DATA, END, 1, b"")).await;
    let heard = client.read_all().await;
    assert!(ends(&heard, 1) && ends(&heard, 65));
    client.ends_after(1).await;
}

/// The server's window: what a client sends to either comes back as room, and never more than there was.
#[tokio::test(start_paused = true)]
async fn room_for_uploads_comes_back_from_both_servers() {
    let window: Versions = |_| {
        let mut builder = builder();
        builder.initial_connection_window_size(100_000).initial_stream_window_size(1 << 24);
        builder
    };
    let mut client = Client::connect_open(window, &setting(4, 1 << 24), Open::Stay).await;
    client.say(&window_update(0, 1 << 30)).await;
    opens(&mut client, 1).await;
    client.moves().await;
    opens(&mut client, 3).await;
    let mut room = 100_000;
    let (mut sent, mut heard) = (0, Vec::new());
    while sent < 2_000_000 {
        for stream in [1, 1, 3, 1, 3, 3] {
            let length = room.min(16_384);
            client.say(&frame(DATA, 0, stream, &vec![7; length])).await;
            (room, sent) = (room - length, sent + length);
        }
        let more = client.read_all().await;
        for update in more.iter().filter(|f| f.kind == WINDOW_UPDATE && f.stream == 0) {
            room += u32::from_be_bytes(update.payload[..].try_into().unwrap()) as usize;
        }
        assert!(room <= 100_000, "{room}: more than there was at first");
        heard.extend(more);
    }
    assert_eq!(data(&heard, None), sent);
    ends_both(client).await;
}

#[tokio::test(start_paused = true)]
async fn settings_of_the_client_come_to_both_servers_and_are_acknowledged_once() {
    let mut client = Client::connect_open(|_| builder(), &setting(4, 5), Open::Stay).await;
    opens(&mut client, 1).await;
    client.say(&frame(DATA, 0, 1, &[7; 10])).await;
    assert_eq!(data(&client.read_all().await, Some(1)), 5, "so large is the window of a stream");
    client.moves().await;
    for size in [100, 200] {
        client.say(&frame(SETTINGS, 0, 0, &setting(4, size))).await;
        client.say(&frame(SETTINGS, 0, 0, &setting(1, 4096))).await;
    }
    let heard = client.read_all().await;
    let acks = heard.iter().filter(|f| f.kind == SETTINGS && f.flags == END).count();
    assert_eq!((acks, data(&heard, Some(1))), (4, 5), "{heard:?}");
    client.say(&frame(HEADERS, END_HEADERS, 3, STREAM)).await;
    client.say(&frame(DATA, 0, 3, &[7; 150])).await;
    assert_eq!(data(&client.read_all().await, Some(3)), 150);
    // A table of no size would have to be said by the next block, whichever server writes it.
    client.say(&frame(SETTINGS, 0, 0, &setting(1, 0))).await;
    let heard = client.read_all().await;
    assert!(heard.contains(&reset(1, 2)), "{heard:?}");
    assert_eq!(heard.iter().filter(|f| f.kind == SETTINGS && f.flags == END).count(), 1, "{heard:?}");
    client.say(&frame(DATA, END, 3, b"")).await;
    assert!(ends(&client.read_all().await, 3));
    asks(&mut client, 5).await;
    client.ends_after(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_once() {
    let mut client = client(Open::Stay).await;
    opens(&mut client, 1).await;
    client.moves().await;
    for n in 0..10_u64 {
        client.say(&frame(PING, 0, 0, &n.to_be_bytes())).await;
        let pong = Frame { kind: PING, flags: END, stream: 0, payload: n.to_be_bytes().to_vec() };
        assert_eq!(client.read_all().await, [pong]);
    }
    client.say(&frame(DATA, END, 1, b"")).await;
    assert!(ends(&client.read_all().await, 1));
    client.ends_after(1).await;
}

/// hyper asks whether its client is there, on both sides: the client hears of the one that is here.
#[tokio::test(start_paused = true)]
async fn a_server_that_keeps_its_streams_is_told_that_its_client_is_there() {
    let asks_often: Versions = |generation| {
        let mut builder = builder();
        if generation == 0 {
            builder
                .keep_alive_interval(Duration::from_millis(100))
                .keep_alive_timeout(Duration::from_secs(1));
        }
        builder
    };
    let mut client = Client::connect_open(asks_often, &[], Open::Stay).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, STREAM)).await;
    let mut asked = Vec::new();
    while !kinds(&asked).contains(&PING) {
        asked = client.read_all().await;
    }
    // It is answered after the move: the answer is for the server that asked.
    client.moves().await;
    client.say(&frame(PING, END, 0, &asked[0].payload)).await;
    for _ in 0..100 {
        assert_eq!(client.read_all().await, []);
    }
    client.say(&frame(DATA, END, 1, b"there")).await;
    let heard = client.read_all().await;
    assert_eq!((data(&heard, Some(1)), ends(&heard, 1)), (5, true), "{heard:?}");
    client.ends_after(1).await;
}

/// An error that ends the connection for the version before ends its streams only.
#[tokio::test(start_paused = true)]
async fn an_error_on_one_server_ends_its_streams_and_no_other() {
    // Padding that is longer than its frame, and headers that refer to nothing.
    let bad_padding = frame(DATA, 0x8, 1, &[200, 0, 0]);
    let bad_update = window_update(1, 0);
    for (bytes, code) in [(bad_padding, 1), (bad_update, 1)] {
        let mut client = client(Open::Stay).await;
        opens(&mut client, 1).await;
        opens(&mut client, 3).await;
        client.moves().await;
        opens(&mut client, 5).await;
        client.say(&bytes).await;
        let heard = client.read_all().await;
        assert!(heard.contains(&reset(1, code)), "{heard:?}");
        assert!(heard.iter().all(|f| matches!(f.kind, RST_STREAM | WINDOW_UPDATE)), "{heard:?}");
        client.say(&frame(DATA, END, 5, b"goes on")).await;
        let heard = client.read_all().await;
        assert_eq!((data(&heard, Some(5)), ends(&heard, 5)), (7, true), "{heard:?}");
        let ended = client.ended().await;
        assert!(ended.result.is_ok(), "{ended:?}");
    }
}

/// What a client hears of a stream whose server has ended: not that it was never processed.
#[tokio::test(start_paused = true)]
async fn streams_whose_server_dies_are_reset_and_the_others_go_on() {
    for open in [Open::Die, Open::Vanish] {
        let mut client = client(open).await;
        client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
        opens(&mut client, 3).await;
        client.say(&frame(HEADERS, GOES, 5, &get("/", &[]))).await;
        client.read_all().await;
        client.moves().await;
        let mut heard = Vec::new();
        if open == Open::Die {
            opens(&mut client, 7).await;
            client.moves().await;
        } else {
            heard.extend(client.read_all().await);
            opens(&mut client, 7).await;
        }
        heard.extend(client.read_all().await);
        assert_eq!(heard, [reset(1, 2), reset(3, 2)], "{open:?}");
        // It does not know yet.
        client.say(&frame(DATA, END, 3, b"late")).await;
        client.say(&frame(DATA, END, 7, b"goes on")).await;
        let heard = client.read_all().await;
        assert_eq!((data(&heard, Some(7)), ends(&heard, 7)), (7, true), "{open:?}: {heard:?}");
        assert!(heard.iter().all(|f| f.stream == 7 || f.kind == WINDOW_UPDATE), "{open:?}: {heard:?}");
        client.moves().await;
        asks(&mut client, 9).await;
        client.ends_after(2).await;
    }
}

/// A version before that does not run any more keeps no stream of another one waiting, and little memory.
#[tokio::test(start_paused = true)]
async fn a_server_that_stands_still_keeps_its_own_streams_only() {
    let mut client = client(Open::Freeze).await;
    opens(&mut client, 1).await;
    client.moves().await;
    // All that it has given room for.
    for _ in 0..60 {
        client.say(&frame(DATA, 0, 1, &[7; 16_384])).await;
    }
    for stream in (3..103).step_by(2) {
        asks(&mut client, stream).await;
    }
    // No window limits these: at last the client has to wait.
    let flood = window_update(1, 1).repeat(10_000);
    let mut said = 0;
    while said < 100 {
        let one = tokio::time::timeout(Duration::from_millis(1), client.say(&flood)).await;
        if one.is_err() {
            break;
        }
        said += 1;
    }
    assert!(said * flood.len() < 4 << 20, "{said} floods");
}

/// A server that has no stream of its own says so to a client that leaves, and serves what is left.
#[tokio::test(start_paused = true)]
async fn a_client_that_says_goaway_is_served_to_the_end() {
    let mut client = client(Open::Stay).await;
    opens(&mut client, 1).await;
    client.moves().await;
    client.say(&frame(GOAWAY, 0, 0, &[0; 8])).await;
    let heard = client.read_all().await;
    let goaway = heard.iter().find(|f| f.kind == GOAWAY).unwrap();
    assert_eq!(goaway.payload, [0, 0, 0, 1, 0, 0, 0, 0], "what the version before serves counts");
    for _ in 0..100 {
        client.say(&frame(DATA, 0, 1, &[7; 16_384])).await;
        let heard = client.read_all().await;
        assert_eq!(data(&heard, Some(1)), 16_384, "{heard:?}");
        client.say(&window_update(0, 16_384)).await;
        client.say(&window_update(1, 16_384)).await;
    }
    client.say(&frame(DATA, END, 1, b"")).await;
    assert!(ends(&client.read_all().await, 1));
    let ended = client.ended().await;
    assert!(ended.moves == 1 && ended.result.is_ok(), "{ended:?}");
}

/// Its connection is over: the server that keeps its streams ends them, too.
#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_missed_by_both_servers() {
    let mut client = client(Open::Stay).await;
    opens(&mut client, 1).await;
    client.moves().await;
    opens(&mut client, 3).await;
    client.say(&frame(GOAWAY, 0, 0, &[0; 8])).await;
    client.read_all().await;
    let ended = client.ended().await;
    assert_eq!(ended.moves, 1, "{ended:?}");
}

/// A server that drains while streams of the one before are open ends when they have.
#[tokio::test(start_paused = true)]
async fn a_server_that_drains_relays_to_the_end() {
    let mut client = client(Open::Stay).await;
    opens(&mut client, 1).await;
    client.moves().await;
    asks(&mut client, 3).await;
    client.say(&frame(GOAWAY, 0, 0, &[0; 8])).await;
    client.moves().await;
    let heard = client.read_all().await;
    let goaway = heard.iter().rfind(|f| f.kind == GOAWAY).unwrap();
    assert!(u32::from_be_bytes(goaway.payload[..4].try_into().unwrap()) >= 3, "{heard:?}");
    client.say(&frame(DATA, END, 1, b"to the end")).await;
    let heard = client.read_all().await;
    assert_eq!((data(&heard, Some(1)), ends(&heard, 1)), (10, true), "{heard:?}");
    let ended = client.ended().await;
    assert_eq!((ended.moves, ended.stays), (1, vec![Stays::GoAway]));
}

/// Room that is given byte by byte while two servers wait for it lets no byte through that has none.
#[tokio::test(start_paused = true)]
async fn room_that_is_given_byte_by_byte_while_two_servers_wait_for_it() {
    let mut client = Client::connect_open(|_| builder(), &setting(4, 1 << 24), Open::Stay).await;
    opens(&mut client, 1).await;
    client.say(&frame(HEADERS, GOES, 3, &get("/big", &[]))).await;
    let mut heard = client.read_all().await;
    client.moves().await;
    client.say(&frame(HEADERS, GOES, 5, &get("/big", &[]))).await;
    let mut room = 65_535;
    for n in 1..2_000 {
        client.say(&window_update(0, 1)).await;
        // It costs no more than its own bytes.
        client.say(&frame(DATA, 0, 1, b"x")).await;
        room += 1;
        if n % 100 == 0 {
            heard.extend(client.read_all().await);
            assert!(data(&heard, None) <= room, "{} bytes for {room}", data(&heard, None));
        }
    }
    client.say(&window_update(0, 1_000_000)).await;
    client.say(&frame(DATA, END, 1, b"")).await;
    heard.extend(client.read_all().await);
    assert_eq!(
        (data(&heard, Some(1)), data(&heard, Some(3)), data(&heard, Some(5))),
        (1_999, 300_000, 300_000)
    );
    client.ends_after(1).await;
}

/// What a client does while its streams are left behind ends in the same way as without, and the service is not
/// asked more often.
#[tokio::test(start_paused = true)]
async fn floods_while_streams_are_left_behind_end_as_they_do_without() {
    let (head, trailers) = (endless_head(3, POST), endless_head(1, b""));
    let too_much = window_update(0, 0x7fff_ffff).repeat(2);
    for flood in [rapid_resets(), head, trailers, too_much] {
        let mut asked = Vec::new();
        for open in [Open::End, Open::Stay] {
            let mut client = client(open).await;
            client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
            client.read_all().await;
            if open == Open::Stay {
                client.moves().await;
            }
            client.say(&flood).await;
            let heard = client.read_all().await;
            assert!(kinds(&heard).contains(&GOAWAY), "{open:?}: {heard:?}");
            asked.push(client.seen.lock().unwrap().len());
        }
        assert!(asked[1] <= asked[0] + 1, "{asked:?}");
    }
}
