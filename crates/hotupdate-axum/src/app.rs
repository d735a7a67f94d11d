//! What can be served, as one bound.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::ServiceExt as _;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// An application that can be served: any [`tower::Service`] that answers HTTP requests, such as a
/// [`Router`](axum::Router) or a [`MethodRouter`](axum::routing::MethodRouter).
///
/// It is implemented for all of them and cannot be implemented for other types. The bounds in full:
///
/// ```
/// use axum::body::{Body, Bytes};
/// use http::{Request, Response};
///
/// type BoxError = Box<dyn std::error::Error + Send + Sync>;
///
/// fn is_app<S, B>(app: S) -> impl hotupdate_axum::App
/// where
///     S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
///     S::Future: Send,
///     S::Error: Into<BoxError>,
///     B: http_body::Body<Data = Bytes> + Send + 'static,
///     B::Error: Into<BoxError>,
/// {
///     app
/// }
/// # let _ = is_app(axum::Router::new());
/// ```
///
/// A `Router<S>` whose state was not given with `.with_state(…)` is none, and neither is what
/// [`into_make_service`](axum::Router::into_make_service) returns: the router itself is the application. The
/// compiler says so:
///
/// ```compile_fail
/// # use axum::{Router, extract::State, routing::get};
/// # async fn example(listener: hotupdate::Listener, mut hot: hotupdate::Starting) -> hotupdate::Result<()> {
/// let app = Router::new().route("/", get(|State(name): State<&'static str>| async move { name }));
/// hotupdate_axum::serve(listener, app, &mut hot).await // error: `Router<&str>` cannot be served
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be served",
    label = "not an application: no service of HTTP requests",
    note = "a `Router<S>` is one once its state is given: `.with_state(…)`",
    note = "a service is one if it is `Clone + Send` and takes a `Request<axum::body::Body>`"
)]
pub trait App: Clone + Send + 'static {
    #[doc(hidden)]
    fn answer(
        self,
        request: Request<Body>,
        _: sealed::Sealed,
    ) -> impl Future<Output = Result<Response<Body>, BoxError>> + Send + 'static;
}

pub(crate) mod sealed {
    /// Without its name the method cannot be written elsewhere.
    #[derive(Debug)]
    pub struct Sealed;
}

impl<S, B> App for S
where
    S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn answer(
        self,
        request: Request<Body>,
        _: sealed::Sealed,
    ) -> impl Future<Output = Result<Response<Body>, BoxError>> + Send + 'static {
        Answer { answer: self.oneshot(request) }
    }
}

pin_project! {
    /// An `async fn` would move the request and the response once more.
    struct Answer<F> {
        #[pin]
        answer: F,
    }
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().answer.poll(cx).map(|answer| match answer {
            Ok(response) => Ok(response.map(Body::new)),
            Err(error) => Err(error.into()),
        })
    }
}
