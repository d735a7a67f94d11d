//! What can be served, as one bound.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use axum::body::{Body, Bytes};
use http::{Request, Response, Version};
use pin_project_lite::pin_project;
use tower::ServiceExt as _;
use tower::util::Oneshot;

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
        let mut app = self;
        // Each stream of HTTP/2 has a task of its own, and if the application panics it is for that one.
        if request.version() >= Version::HTTP_2 {
            return Answer::Waits { answer: app.oneshot(request) };
        }
        match app.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Answer::Called { answer: app.call(request) },
            Poll::Ready(Err(error)) => Answer::Failed { error: Some(error.into()) },
            Poll::Pending => Answer::Waits { answer: app.oneshot(request) },
        }
    }
}

pin_project! {
    /// An `async fn` would move the request and the response once more, and so does the detour by a future
    /// that waits until the application is ready, which most are at all times.
    #[project = AnswerProjection]
    enum Answer<S: tower::Service<R>, R> {
        Called {
            #[pin]
            answer: S::Future,
        },
        Waits {
            #[pin]
            answer: Oneshot<S, R>,
        },
        Failed {
            error: Option<BoxError>,
        },
    }
}

impl<S, R, B> Future for Answer<S, R>
where
    S: tower::Service<R, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match self.project() {
            AnswerProjection::Called { answer } => answer.poll(cx),
            AnswerProjection::Waits { answer } => answer.poll(cx),
            AnswerProjection::Failed { error } => {
                return Poll::Ready(Err(error.take().expect("it is polled until it is ready")));
            }
        };
        answer.map(|answer| match answer {
            Ok(response) => Ok(response.map(Body::new)),
            Err(error) => Err(error.into()),
        })
    }
}
