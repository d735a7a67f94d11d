//! Any bytes are a state or an error, and a state says the same again.

use hotupdate_h2::State;

pub(crate) fn check(bytes: &[u8]) {
    let Ok(state) = State::from_bytes(bytes) else { return };
    let again = state.to_bytes();
    let once_more = State::from_bytes(&again).expect("it is what was written");
    assert_eq!(once_more.to_bytes(), again);
}
