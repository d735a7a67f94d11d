//! Any stream of bytes, in any pieces, with migrations in between at any moment: the bytes of the answers are
//! those of a connection that stays.
//!
//! Deliberately absent: HTTP/2, whose frames `hotupdate-h2` fuzzes. And where a connection ends whose client
//! sends bodies that are not read: that depends on how much of them has arrived, with or without a migration.

use arbitrary::Unstructured;

use super::script::{Script, Step};
use super::stage::perform;

pub(crate) fn check(bytes: &[u8]) {
    let _ = how_often_it_migrates(bytes);
}

/// Checks, and says how often the connection has migrated.
pub(crate) fn how_often_it_migrates(bytes: &[u8]) -> u64 {
    let Ok(script) = Script::read(&mut Unstructured::new(bytes)) else { return 0 };
    // Known at its first bytes, and another protocol.
    if script.stream.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") {
        return 0;
    }
    let (answers, migrated, left) = perform(&script.stream, script.steps.iter().copied());
    // hyper 1.12 goes to sleep when a body of several chunks that is not read is followed by a request and
    // the answer before it is still being written, migrated or not.
    assert!(
        script.ignores_bodies || left == 0,
        "a connection is left after {:?}",
        String::from_utf8_lossy(&answers)
    );
    let stays = script.steps.iter().copied().filter_map(Step::of_one_that_stays);
    let (expected, ..) = perform(&script.stream, stays);
    if script.ignores_bodies {
        let [expected, answers] = match script.has_garbage {
            true => [without_refusal(expected), without_refusal(answers)],
            false => [expected, answers],
        };
        let same = expected.starts_with(&answers) || answers.starts_with(&expected);
        assert!(same, "{}", differ(&script, &expected, &answers));
        let trapped = answers.windows(7).any(|bytes| bytes == b"trapped");
        assert!(script.has_garbage || !trapped, "a body was taken for a request: {script:?}");
    } else {
        assert!(expected == answers, "{}", differ(&script, &expected, &answers));
    }
    migrated
}

/// hyper 1.12 may refuse what is no request before all of the answer before it is sent, and then says so in
/// the middle of that answer: its buffer for heads goes first. No client that speaks HTTP sees it.
fn without_refusal(mut answers: Vec<u8>) -> Vec<u8> {
    let refusal = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".as_slice();
    let at = answers.windows(refusal.len()).position(|bytes| bytes == refusal);
    at.map(|at| answers.drain(at..at + refusal.len()));
    answers
}

fn differ(script: &Script, expected: &[u8], answers: &[u8]) -> String {
    let [stream, expected, answers] =
        [&script.stream, expected, answers].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let (expected, answers) = (expected.replace("bbbb", ""), answers.replace("bbbb", ""));
    format!(
        "{:?}\n---- sent\n{stream}\n---- without a migration\n{expected}\n---- with\n{answers}",
        script.steps
    )
}
