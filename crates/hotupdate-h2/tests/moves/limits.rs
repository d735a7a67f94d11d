//! What versions and clients allow each other, and what ends where a limit is.

use hotupdate_h2::{Setting, Stays};

use crate::raw::*;
use crate::world::{Versions, builder};

const GOES: u8 = END | END_HEADERS;

/// Asks once, and is answered.
async fn asks(client: &mut Client, stream: u32) {
    client.say(&frame(HEADERS, GOES, stream, &get("/", &[]))).await;
    assert_answered(&client.read_all().await, stream, b"");
}

/// SETTINGS that have one value.
fn settings(number: u16, value: u32) -> Frame {
    Frame { kind: SETTINGS, flags: 0, stream: 0, payload: setting(number, value) }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_allows_more_says_so_and_the_connection_moves_on() {
    let larger: Versions = |generation| {
        let mut builder = builder();
        builder.max_frame_size(16_384 + 1_000 * generation as u32);
        builder
    };
    let mut client = Client::connect_to(larger, &[]).await;
    for generation in 1..4 {
        client.moves().await;
        assert_eq!(client.read_all().await, [settings(5, 16_384 + 1_000 * generation)]);
        client.say(&frame(SETTINGS, END, 0, &[])).await;
        let stream = 2 * generation - 1;
        let body = vec![7; 16_384 + 1_000 * generation as usize];
        client.say(&frame(HEADERS, END_HEADERS, stream, POST)).await;
        client.say(&frame(DATA, END, stream, &body)).await;
        assert_answered(&client.read_all().await, stream, &body);
    }
    client.ends_after(3).await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_allows_less_says_so_and_keeps_the_connection() {
    let smaller: Versions = |generation| {
        let mut builder = builder();
        builder.initial_stream_window_size(100_000 - 10_000 * generation as u32);
        builder
    };
    let mut client = Client::connect_to(smaller, &[]).await;
    asks(&mut client, 1).await;
    client.moves().await;
    assert_eq!(client.read_all().await, [settings(4, 90_000)]);
    client.say(&frame(SETTINGS, END, 0, &[])).await;
    asks(&mut client, 3).await;
    client.moves().await;
    assert!(kinds(&client.read_all().await).contains(&GOAWAY));
    let ended = client.ended().await;
    assert_eq!((ended.moves, ended.stays), (1, vec![Stays::Settings(Setting::InitialWindowSize)]));
}

/// A lower limit of streams is no reason to stay: what is too much is refused, and its client tries again.
#[tokio::test(start_paused = true)]
async fn held_streams_count_like_those_that_are_open() {
    const TOO_MANY: u32 = 9;
    let three: Versions = |_| {
        let mut builder = builder();
        builder.max_concurrent_streams(3);
        builder
    };
    let mut client = Client::connect_to(three, &[]).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.moves().await;
    for stream in [3, 5] {
        client.say(&frame(HEADERS, END_HEADERS, stream, POST)).await;
    }
    client.say(&frame(DATA, END, 1, b"first")).await;
    assert_answered(&client.read_all().await, 1, b"first");
    client.say(&frame(HEADERS, END_HEADERS, 7, POST)).await;
    client.say(&frame(HEADERS, END_HEADERS, TOO_MANY, POST)).await;
    let refused = client.read_all().await;
    let refusal = Frame { kind: RST_STREAM, flags: 0, stream: TOO_MANY, payload: vec![0, 0, 0, 7] };
    assert!(refused.contains(&refusal), "{refused:?}");
    for stream in [3, 5, 7] {
        client.say(&frame(DATA, END, stream, b"held")).await;
        assert_answered(&client.read_all().await, stream, b"held");
    }
    client.ends_after(1).await;
}

#[tokio::test(start_paused = true)]
async fn more_than_may_be_held_goes_to_the_server_that_is_there() {
    let mut client = Client::connect(&[]).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.moves().await;
    client.say(&frame(HEADERS, END_HEADERS, 3, POST)).await;
    let mut heard = Vec::new();
    for _ in 0..17 {
        client.say(&frame(DATA, 0, 3, &[7; 16_000])).await;
        heard.extend(client.read_all().await);
    }
    assert!(kinds(&heard).contains(&GOAWAY), "it is served here to its end");
    client.say(&frame(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes())).await;
    client.say(&frame(WINDOW_UPDATE, 0, 3, &1_000_000_u32.to_be_bytes())).await;
    client.say(&frame(DATA, END, 3, b"")).await;
    client.say(&frame(DATA, END, 1, b"first")).await;
    heard.extend(client.read_all().await);
    heard.retain(|frame| frame.kind != GOAWAY);
    assert_answered(&heard, 1, b"first");
    assert_answered(&heard, 3, &[7; 17 * 16_000]);
    let ended = client.ended().await;
    assert_eq!((ended.moves, ended.stays), (0, vec![Stays::Held]));
}

/// h2 counts what it resets, and each server anew: the sum is limited here.
#[tokio::test(start_paused = true)]
async fn a_client_cannot_have_more_streams_reset_by_moving() {
    let mut client = Client::connect(&[]).await;
    let mut streams = (1..).step_by(2);
    for _ in 0..11 {
        for stream in streams.by_ref().take(100) {
            let invalid = [&get("/", &[])[..], b"\x00\x0aconnection\x01x"].concat();
            client.say(&frame(HEADERS, GOES, stream, &invalid)).await;
        }
        client.read_all().await;
        client.moves().await;
    }
    let ended = client.ended().await;
    assert_eq!((ended.moves, ended.stays), (10, vec![Stays::Resets]));
}

/// As a client does that cancels each request at once: it costs its own server no more than without a move.
#[tokio::test(start_paused = true)]
async fn streams_that_their_client_resets_at_once_neither_stop_a_move_nor_are_answered_late() {
    let mut client = Client::connect(&[]).await;
    let mut streams = (1..).step_by(2);
    for _ in 0..20 {
        for stream in streams.by_ref().take(5) {
            client.say(&frame(HEADERS, GOES, stream, &get("/slow", &[]))).await;
            client.say(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())).await;
        }
        client.moves().await;
        let heard = client.read_all().await;
        assert!(kinds(&heard).iter().all(|kind| *kind == WINDOW_UPDATE), "{heard:?}");
    }
    let last = streams.next().unwrap();
    asks(&mut client, last).await;
    client.ends_after(20).await;
}

/// RFC 7541, section 4.2: the client's decoder is emptied by the first block that a new server writes.
#[tokio::test(start_paused = true)]
async fn the_first_answer_of_each_server_begins_with_the_sizes_of_the_clients_table() {
    for (size, says) in [(None, &b"\x20\x3f\xe1\x1f"[..]), (Some(100), b"\x20\x3f\x45"), (Some(0), b"\x20")] {
        let announced = size.map(|size| setting(1, size)).unwrap_or_default();
        let mut client = Client::connect(&announced).await;
        asks(&mut client, 1).await;
        for generation in 1..4 {
            client.moves().await;
            client.say(&frame(HEADERS, GOES, 1 + 2 * generation, &get("/", &[]))).await;
            let heard = client.read_all().await;
            let headers = heard.iter().find(|frame| frame.kind == HEADERS).unwrap();
            assert!(headers.payload.starts_with(says), "{size:?}: {headers:?}");
            assert!(headers.payload[says.len()] & 0xe0 != 0x20, "and no other: {headers:?}");
        }
        client.ends_after(3).await;
    }
}

/// A client may make its own table smaller, larger and empty, before a move and after it.
#[tokio::test(start_paused = true)]
async fn the_sizes_of_the_clients_own_table_are_known_to_the_next_server() {
    let mut client = Client::connect(&[]).await;
    let mut stream = 1;
    // Each block: the sizes, what is referred to and what is learnt. 62 is the newest entry.
    for (sizes, more) in [
        (&b""[..], learn("x-one", "1")),
        (b"", [b"\xbe".to_vec(), learn("x-two", "2")].concat()),
        // 100 bytes hold two of these entries of 38, and 70 one of them.
        (b"\x3f\x45", [b"\xbe\xbf".to_vec(), learn("x-three", "3")].concat()),
        (b"\x3f\x27", b"\xbe".to_vec()),
        (b"\x20\x3f\xe1\x1f", learn("x-four", "4")),
        (b"", b"\xbe".to_vec()),
    ] {
        let block = [sizes, &get("/", &more)].concat();
        client.say(&frame(HEADERS, GOES, stream, &block)).await;
        assert_answered(&client.read_all().await, stream, b"");
        client.moves().await;
        stream += 2;
    }
    // What was evicted is refused by the next server as by the one before.
    client.say(&frame(HEADERS, GOES, stream, &get("/", b"\xbf"))).await;
    assert!(kinds(&client.read_all().await).contains(&GOAWAY));
    let names: Vec<_> = client.seen.lock().unwrap().iter().map(|(_, headers)| headers.len()).collect();
    assert_eq!(names, [1, 2, 3, 1, 1, 1]);
}

/// A client that breaks the protocol while data waits for room hears so.
#[tokio::test(start_paused = true)]
async fn what_waits_for_room_does_not_hold_up_an_error() {
    let mut client = Client::connect(&setting(4, 1 << 24)).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.say(&frame(DATA, END, 1, &[7; 16_384])).await;
    client.read_all().await;
    client.moves().await;
    client.say(&frame(HEADERS, GOES, 3, &get("/big", &[]))).await;
    client.read_all().await;
    client.say(&frame(PING, 0, 0, b"short")).await;
    assert!(kinds(&client.read_all().await).contains(&GOAWAY));
    let ended = client.ended().await;
    assert!(ended.result.is_err(), "{ended:?}");
}

/// What a client does while a move waits costs no more than without: the flood ends in the same way, and the
/// service is not asked more often.
#[tokio::test(start_paused = true)]
async fn floods_while_a_move_waits_end_as_they_do_without() {
    for flood in [rapid_resets(), endless_head(3, POST)] {
        let mut asked = Vec::new();
        for moves in [false, true] {
            let mut client = Client::connect(&[]).await;
            client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
            client.read_all().await;
            if moves {
                client.moves().await;
            }
            client.say(&flood).await;
            let mut heard = client.read_all().await;
            if !kinds(&heard).contains(&GOAWAY) {
                client.say(&frame(DATA, END, 1, b"")).await;
                heard.extend(client.read_all().await);
            }
            assert!(kinds(&heard).contains(&GOAWAY), "{moves}: {heard:?}");
            asked.push(client.seen.lock().unwrap().len());
        }
        assert!(asked[1] <= asked[0] + 1, "{asked:?}");
    }
}

/// Room that is given byte by byte lets no byte through that has none, and all of them at last.
#[tokio::test(start_paused = true)]
async fn room_that_is_given_byte_by_byte_after_a_move() {
    const FIRST: usize = 16_384;
    let mut client = Client::connect(&setting(4, 1 << 24)).await;
    client.say(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    client.say(&frame(DATA, END, 1, &[7; FIRST])).await;
    client.read_all().await;
    client.moves().await;
    client.say(&frame(HEADERS, GOES, 3, &get("/big", &[]))).await;
    let mut heard = client.read_all().await;
    let data =
        |heard: &[Frame]| heard.iter().filter(|f| f.kind == DATA).map(|f| f.payload.len()).sum::<usize>();
    let mut room = 65_535 - FIRST;
    for _ in 0..2_000 {
        client.say(&frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())).await;
        room += 1;
    }
    heard.extend(client.read_all().await);
    assert!(data(&heard) <= room, "{} bytes for {room}", data(&heard));
    client.say(&frame(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes())).await;
    heard.extend(client.read_all().await);
    assert_answered(&heard, 3, &[7; 300_000]);
    client.ends_after(1).await;
}
