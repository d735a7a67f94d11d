//! The extractor of the client's address.

use axum::extract::FromRequestParts;
use hotupdate::Address;
use http::StatusCode;
use http::request::Parts;

use crate::drain::Draining;

/// The client's address, over TCP or from a Unix socket; it stays the same when the connection migrates.
///
/// [`Serve::connect_info`](crate::Serve::connect_info) gives it to what asks for axum's `ConnectInfo`.
/// Outside of [`serve`](crate::serve()) there is none, and a request for it fails with status 500; as for
/// [`Draining`](crate::Draining), so it does in another task than the one that answers the request.
///
/// ```
/// use hotupdate_axum::Peer;
///
/// async fn who(Peer(address): Peer) -> String {
///     address.to_string()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(pub Address);

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let peer = Draining::find(parts).as_ref().and_then(Draining::peer_addr).cloned();
        peer.map(Self).ok_or((
            StatusCode::INTERNAL_SERVER_ERROR,
            "the client's address is not known: the request is not answered by hotupdate_axum in this task",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn outside_of_serve_it_is_not_known() {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        let (status, _) = Peer::from_request_parts(&mut parts, &()).await.unwrap_err();
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
