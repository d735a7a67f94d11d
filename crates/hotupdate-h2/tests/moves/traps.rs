//! What can go wrong around a move, frame by frame.

use crate::raw::*;
use crate::world::{Open, builder};

#[tokio::test(start_paused = true)]
async fn an_idle_client_hears_not_a_byte_through_ten_moves() {
    let mut client = Client::connect(&[]).await;
    for _ in 0..10 {
        client.moves().await;
        assert_eq!(client.read_all().await, []);
    }
    client.say(&frame(HEADERS, END | END_HEADERS, 1, &get("/", &[]))).await;
    assert_answered(&client.read_all().await, 1, b"");
    for _ in 0..10 {
        client.moves().await;
        assert_eq!(client.read_all().await, []);
    }
    client.say(&frame(HEADERS, END | END_HEADERS, 3, &get("/", &[]))).await;
    assert_answered(&client.read_all().await, 3, b"");
    client.ends_after(20).await;
}

#[tokio::test(start_paused = true)]
async fn the_table_is_known_to_the_next_server() {
    let mut client = Client::connect(&[]).await;
    client.say(&frame(HEADERS, END | END_HEADERS, 1, &get("/", &learn("x-one", "first")))).await;
    client.read_all().await;
    client.moves().await;
    // 62: what was learnt; and its name with another value, which is learnt, too.
    client.say(&frame(HEADERS, END | END_HEADERS, 3, &get("/", b"\xbe\x7e\x06second"))).await;
    assert_answered(&client.read_all().await, 3, b"");
    client.moves().await;
    client.say(&frame(HEADERS, END | END_HEADERS, 5, &get("/", b"\xbe\xbf"))).await;
    assert_answered(&client.read_all().await, 5, b"");
    client.ends_after(2).await;
}

#[tokio::test(start_paused = true)]
async fn late_frames_of_streams_that_are_over_are_dropped() {
    let mut client = Client::connect(&[]).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.say(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).await;
    client.read_all().await;
    client.moves().await;
    for late in [
        frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()),
        frame(WINDOW_UPDATE, 0, 1, &7_u32.to_be_bytes()),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
    ] {
        client.say(&late).await;
        let heard = client.read_all().await;
        assert!(kinds(&heard).iter().all(|kind| *kind == WINDOW_UPDATE), "{heard:?}");
    }
    client.say(&frame(HEADERS, END | END_HEADERS, 3, &get("/", &[]))).await;
    assert_answered(&client.read_all().await, 3, b"");
    client.ends_after(1).await;
}

#[tokio::test(start_paused = true)]
async fn late_data_is_dropped_and_its_window_given_back() {
    let mut client = Client::connect(&[]).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.say(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).await;
    client.read_all().await;
    client.moves().await;
    client.say(&frame(DATA, 0, 1, &[0; 5_000])).await;
    let heard = client.read_all().await;
    assert_eq!(heard, [Frame { kind: WINDOW_UPDATE, flags: 0, stream: 0, payload: vec![0, 0, 0x13, 0x88] }]);
    client.ends_after(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_window_is_given_back_before_or_after_a_head_of_several_frames() {
    // The socket is full in the middle of the head.
    for bytes in [12_000, 20_000, 36_000, 52_000] {
        let mut client = Client::connect_through(bytes, &[]).await;
        client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
        client.say(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).await;
        client.read_all().await;
        client.moves().await;
        client.say(&frame(HEADERS, END | END_HEADERS, 3, &get("/head", &[]))).await;
        settle().await;
        client.say(&frame(DATA, 0, 1, &[0; 5_000])).await;
        let mut heard = client.read_all().await;
        heard.extend(client.read_all().await);
        assert_answered(&heard, 3, b"");
        let kinds = kinds(&heard);
        let began = kinds.iter().position(|kind| *kind == HEADERS).unwrap();
        let more = heard[began..].iter().position(|frame| frame.flags & END_HEADERS != 0).unwrap();
        assert!(more > 1, "{kinds:?}");
        assert!(
            kinds[began + 1..=began + more].iter().all(|kind| *kind == CONTINUATION),
            "{bytes}: {kinds:?}"
        );
        assert!(kinds.contains(&WINDOW_UPDATE), "{bytes}: {kinds:?}");
        client.ends_after(1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn late_headers_are_followed_and_what_comes_then_needs_no_table() {
    let mut client = Client::connect(&[]).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.say(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).await;
    client.read_all().await;
    client.moves().await;
    client.say(&frame(HEADERS, END | END_HEADERS, 1, &learn("x-late", "trailer"))).await;
    for stream in [3, 5] {
        client.say(&frame(HEADERS, END | END_HEADERS, stream, &get("/", b"\xbe"))).await;
        let heard = client.read_all().await;
        assert_answered(&heard, stream, b"");
    }
    client.moves().await;
    client.say(&frame(HEADERS, END | END_HEADERS, 7, &get("/", b"\xbe"))).await;
    assert_answered(&client.read_all().await, 7, b"");
    client.ends_after(2).await;
}

#[tokio::test(start_paused = true)]
async fn settings_that_the_client_has_not_acknowledged_are_acknowledged_once() {
    let mut client = Client::silent();
    client.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.say(&frame(SETTINGS, 0, 0, &[])).await;
    client.read_all().await;
    client.moves().await;
    client.moves().await;
    client.say(&frame(SETTINGS, END, 0, &[])).await;
    client.say(&frame(HEADERS, END | END_HEADERS, 1, &get("/", &[]))).await;
    assert_answered(&client.read_all().await, 1, b"");
    client.ends_after(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_ping_and_settings_that_come_at_the_move_are_answered_once() {
    let mut client = Client::connect(&[]).await;
    for n in 0..10_u64 {
        client.say(&frame(PING, 0, 0, &n.to_be_bytes())).await;
        client.say(&frame(SETTINGS, 0, 0, &setting(4, 70_000 + n as u32))).await;
        client.moves().await;
        let heard: Vec<_> = client.read_all().await.into_iter().filter(|f| f.kind != WINDOW_UPDATE).collect();
        let pong = Frame { kind: PING, flags: END, stream: 0, payload: n.to_be_bytes().to_vec() };
        let ack = Frame { kind: SETTINGS, flags: END, stream: 0, payload: vec![] };
        assert_eq!(heard, [pong, ack]);
    }
    client.ends_after(10).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_with_a_small_window_never_gets_more_than_it_has_room_for() {
    // Streams have room, the connection has not.
    let mut client = Client::connect(&setting(4, 1 << 24)).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.say(&frame(DATA, END, 1, &[7; 60_000][..16_384])).await;
    let heard = client.read_all().await;
    assert_answered(&heard, 1, &[7; 16_384]);
    client.moves().await;
    // 49,151 bytes of room are left, and hyper believes in 65,535.
    client.say(&frame(HEADERS, END | END_HEADERS, 3, &get("/big", &[]))).await;
    client.say(&frame(HEADERS, END | END_HEADERS, 5, &get("/", &[]))).await;
    let mut heard = client.read_all().await;
    let room =
        |frames: &[Frame]| frames.iter().filter(|f| f.kind == DATA).map(|f| f.payload.len()).sum::<usize>();
    assert!(room(&heard) <= 49_151, "{}", room(&heard));
    client.say(&frame(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes())).await;
    heard.extend(client.read_all().await);
    assert_answered(&heard, 3, &[7; 300_000]);
    assert_answered(&heard, 5, b"");
    client.moves().await;
    client.say(&frame(HEADERS, END | END_HEADERS, 7, &get("/big", &[]))).await;
    assert_answered(&client.read_all().await, 7, &[7; 300_000]);
    client.ends_after(2).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_room_is_sent_before_the_connection_ends() {
    const LENGTH: usize = 4 * 13_000;
    let mut client = Client::connect(&setting(4, 1 << 24)).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.say(&frame(DATA, END, 1, &[7; 16_384])).await;
    client.read_all().await;
    client.moves().await;
    client.say(&frame(HEADERS, END_HEADERS, 3, POST)).await;
    for n in 0..4 {
        client.say(&frame(DATA, u8::from(n == 3), 3, &[7; LENGTH / 4])).await;
    }
    let mut heard = client.read_all().await;
    let data =
        heard.iter().filter(|frame| frame.kind == DATA).map(|frame| frame.payload.len()).sum::<usize>();
    assert!(data < LENGTH, "{data} bytes: it has no room for all");
    // The connection cannot move any more, so it drains: hyper believes its answer to be sent, and shuts
    // down.
    client.say(&frame(GOAWAY, 0, 0, &[0; 8])).await;
    heard.extend(client.read_all().await);
    client.moves().await;
    heard.extend(client.read_all().await);
    client.say(&frame(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes())).await;
    heard.extend(client.read_all().await);
    heard.retain(|frame| frame.kind != GOAWAY);
    assert_answered(&heard, 3, &[7; LENGTH]);
    client.ended().await;
}

#[tokio::test(start_paused = true)]
async fn more_data_than_a_window_at_first_arrives_after_a_move() {
    let mut client = Client::connect(&[]).await;
    client.moves().await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    let mut heard = Vec::new();
    for n in 0..30 {
        client.say(&frame(DATA, u8::from(n == 29), 1, &[7; 10_000])).await;
    }
    heard.extend(client.read_all().await);
    client.say(&frame(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes())).await;
    client.say(&frame(WINDOW_UPDATE, 0, 1, &1_000_000_u32.to_be_bytes())).await;
    heard.extend(client.read_all().await);
    assert_answered(&heard, 1, &[7; 300_000]);
    client.ends_after(1).await;
}

#[tokio::test(start_paused = true)]
async fn new_streams_wait_while_old_ones_finish_and_come_to_the_next_server() {
    let mut client = Client::connect(&[]).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.moves().await;
    client.say(&frame(HEADERS, 0, 3, &POST[..1])).await;
    client.say(&frame(CONTINUATION, END_HEADERS, 3, &[&POST[1..], &learn("x-held", "1")[..]].concat())).await;
    client.say(&frame(DATA, 0, 3, b"held ")).await;
    client.say(&frame(PING, 0, 0, b"12345678")).await;
    assert_eq!(kinds(&client.read_all().await), [PING], "a held stream holds nothing else");
    client.say(&frame(DATA, END, 1, b"first")).await;
    client.say(&frame(DATA, END, 3, b"second")).await;
    let heard = client.read_all().await;
    assert_answered(&heard, 1, b"first");
    assert_answered(&heard, 3, b"held second");
    client.say(&frame(HEADERS, END | END_HEADERS, 5, &get("/", b"\xbe"))).await;
    assert_answered(&client.read_all().await, 5, b"");
    client.ends_after(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_frames_are_held_is_served_until_its_end() {
    let mut client = Client::connect(&[]).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.moves().await;
    client.say(&frame(HEADERS, END | END_HEADERS, 3, &get("/", &[]))).await;
    client.read_all().await;
    let ended = client.ended().await;
    assert_eq!(ended.moves, 0, "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_goaway_stays() {
    let mut client = Client::connect(&[]).await;
    client.say(&frame(GOAWAY, 0, 0, &[0; 8])).await;
    client.moves().await;
    assert_eq!(client.ended().await.moves, 0);
}

#[tokio::test(start_paused = true)]
async fn what_h2_refuses_is_refused_the_same_way_before_and_after_a_move() {
    let invalid: [Vec<u8>; 8] = [
        frame(HEADERS, END | END_HEADERS, 1, &[0x80]),
        frame(HEADERS, END | END_HEADERS, 1, &[0xff, 0x7f]),
        frame(HEADERS, END | END_HEADERS, 2, &get("/", &[])),
        frame(CONTINUATION, END_HEADERS, 1, b""),
        frame(DATA, 0, 0, b"x"),
        frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        frame(SETTINGS, 0, 0, b"short"),
        frame(PING, 0, 0, b"short"),
    ];
    for bytes in invalid {
        let mut answers = Vec::new();
        for moves in [0, 2] {
            let mut client = Client::connect(&[]).await;
            for _ in 0..moves {
                client.moves().await;
            }
            client.say(&bytes).await;
            let heard = client.read_all().await;
            answers.push(heard.into_iter().filter(|f| f.kind != WINDOW_UPDATE).collect::<Vec<_>>());
        }
        assert_eq!(answers[0], answers[1], "after {bytes:?}");
        assert!(kinds(&answers[0]).contains(&GOAWAY), "{bytes:?}: {answers:?}");
    }
}

/// What the version before has answered was answered, whatever this one has been asked.
#[tokio::test(start_paused = true)]
async fn an_error_says_the_last_stream_of_the_connection() {
    for open in [Open::End, Open::Stay] {
        for asks in [0, 1] {
            let mut client = Client::connect_open(|_| builder(), &[], open).await;
            let flags = if open == Open::End { END | END_HEADERS } else { END_HEADERS };
            client.say(&frame(HEADERS, flags, 5, POST)).await;
            client.read_all().await;
            client.moves().await;
            let mut last = 5;
            for _ in 0..asks {
                last += 2;
                client.say(&frame(HEADERS, END | END_HEADERS, last, &get("/", &[]))).await;
            }
            client.read_all().await;
            client.say(&frame(DATA, 0, 0, b"x")).await;
            let heard = client.read_all().await;
            let goaway = heard.iter().find(|f| f.kind == GOAWAY).unwrap();
            assert_eq!(goaway.payload[..4], u32::to_be_bytes(last), "{open:?}, {asks}: {heard:?}");
            assert_eq!(client.ended().await.moves, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn floods_end_as_they_do_without_a_move() {
    // Streams that are opened and reset at once, and a block that does not end.
    let mut resets = Vec::new();
    for stream in (1..4_000).step_by(2) {
        resets.extend(frame(HEADERS, END_HEADERS, stream, POST));
        resets.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let mut block = frame(HEADERS, 0, 1, POST);
    for _ in 0..2_000 {
        block.extend(frame(CONTINUATION, 0, 1, b""));
    }
    for flood in [resets, block] {
        for moves in [0, 1] {
            let mut client = Client::connect(&[]).await;
            for _ in 0..moves {
                client.moves().await;
            }
            client.say(&flood).await;
            let heard = client.read_all().await;
            assert!(kinds(&heard).contains(&GOAWAY), "{moves}: {heard:?}");
        }
    }
}
