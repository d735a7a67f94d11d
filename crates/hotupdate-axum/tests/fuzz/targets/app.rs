//! An application with handlers of every kind, each of which says the same in every version.
//!
//! Deliberately absent: answers that depend on time or on how bytes arrive.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;

/// More than the kernel keeps for a client that does not read, see [`super::stage`].
const BIG: usize = 20_000;

/// What all versions share.
#[derive(Clone, Debug)]
pub(super) struct App {
    /// The requests to `/held` that may be answered.
    pub(super) release: Arc<Semaphore>,
    /// The bodies that `/shelve` has taken and not read.
    pub(super) shelf: Arc<Mutex<Vec<Body>>>,
}

impl App {
    pub(super) fn new() -> Self {
        Self { release: Arc::new(Semaphore::new(0)), shelf: Arc::default() }
    }

    pub(super) fn let_go(&self) {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) async fn answer(self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let (head, body) = request.into_parts();
        let answer = match head.uri.path() {
            "/same" => Body::from("same"),
            "/echo" => match body.collect().await {
                Ok(body) => Body::from(body.to_bytes()),
                Err(_) => return Ok(bad_request()),
            },
            // As it comes, if that cannot be seen from outside.
            "/pipe" if body.size_hint().exact().is_some() => body,
            "/pipe" => {
                let Ok(body) = body.collect().await else { return Ok(bad_request()) };
                let pieces = body
                    .to_bytes()
                    .chunks(7)
                    .map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)))
                    .collect::<Vec<_>>();
                Body::from_stream(futures_util::stream::iter(pieces))
            }
            "/held" => {
                // Never closed.
                if let Ok(permit) = self.release.acquire().await {
                    permit.forget();
                }
                Body::from("held")
            }
            "/big" => Body::from(vec![b'b'; BIG]),
            "/ignore" => Body::from("ignored"),
            "/shelve" => {
                self.shelf.lock().unwrap_or_else(PoisonError::into_inner).push(body);
                Body::from("shelved")
            }
            "/trap" => Body::from("trapped"),
            _ => Body::empty(),
        };
        Ok(Response::new(answer))
    }
}

fn bad_request() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}
