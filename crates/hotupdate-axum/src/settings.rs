//! What an application can set about HTTP.
//!
//! Deliberately absent: settings that would break a migration, such as a connection that is closed after each
//! response.

use std::time::Duration;

#[cfg(feature = "http2")]
use hotupdate_h2::Setting;
use hotupdate_proto::timing::fixed::http::HEADER_READ_TIMEOUT;

/// Settings of HTTP/1.1, for [`Serve::http1`](crate::Serve::http1).
///
/// ```no_run
/// # use std::time::Duration;
/// # fn example(server: hotupdate_axum::Serve) -> hotupdate_axum::Serve {
/// server.http1(|http1| {
///     http1
///         .header_read_timeout(Duration::from_secs(5))
///         .max_headers(50)
///         .max_header_size(16 * 1024)
///         .max_buffer_size(64 * 1024)
///         .title_case_headers(true)
/// })
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "settings are returned, not changed in place"]
pub struct Http1 {
    pub(crate) header_read_timeout: Duration,
    max_headers: Option<usize>,
    max_header_size: Option<usize>,
    max_buffer_size: Option<usize>,
    title_case_headers: bool,
}

/// hyper panics below it.
const MIN_BUFFER_SIZE: usize = 8 * 1024;

/// RFC 9113, section 6.9.1; h2 panics above it.
#[cfg(feature = "http2")]
const MAX_WINDOW_SIZE: u32 = (1 << 31) - 1;

impl Default for Http1 {
    fn default() -> Self {
        Self {
            header_read_timeout: HEADER_READ_TIMEOUT,
            max_headers: None,
            max_header_size: None,
            max_buffer_size: None,
            title_case_headers: false,
        }
    }
}

impl Http1 {
    /// Closes a connection whose client has begun a request and has not sent its whole head within this time.
    /// 30 s by default. A client that is silent between requests may stay.
    pub fn header_read_timeout(mut self, timeout: Duration) -> Self {
        self.header_read_timeout = timeout;
        self
    }

    /// The most header fields of a request, 100 by default; a request with more gets status 431. Any other
    /// number than the default costs an allocation for each request.
    pub fn max_headers(mut self, fields: usize) -> Self {
        self.max_headers = Some(fields);
        self
    }

    /// The most bytes of the head of a request; a request with more gets status 431. By default only
    /// [`max_buffer_size`](Self::max_buffer_size) limits it.
    pub fn max_header_size(mut self, bytes: usize) -> Self {
        self.max_header_size = Some(bytes);
        self
    }

    /// The most bytes that are buffered for a connection in each direction, about 400 KiB by default, 8 KiB
    /// at least.
    pub fn max_buffer_size(mut self, bytes: usize) -> Self {
        self.max_buffer_size = Some(bytes.max(MIN_BUFFER_SIZE));
        self
    }

    /// Whether the names of header fields are sent as `Content-Type` and not as `content-type`, for clients
    /// that compare them as text. Off by default.
    pub fn title_case_headers(mut self, title_case: bool) -> Self {
        self.title_case_headers = title_case;
        self
    }

    /// Without a timer: hyper's own timeout for heads would also close idle connections, which races with
    /// their next request; the idle monitor of a connection knows the difference.
    pub(crate) fn builder(&self) -> hyper::server::conn::http1::Builder {
        let Self {
            header_read_timeout: _,
            max_headers,
            max_header_size,
            max_buffer_size,
            title_case_headers,
        } = self;
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.title_case_headers(*title_case_headers);
        max_headers.map(|fields| builder.max_headers(fields));
        max_header_size.map(|bytes| builder.max_header_size(bytes));
        max_buffer_size.map(|bytes| builder.max_buf_size(bytes));
        builder
    }
}

/// Settings of HTTP/2, for [`Serve::http2`](crate::Serve::http2).
///
/// ```no_run
/// # use std::time::Duration;
/// # fn example(server: hotupdate_axum::Serve) -> hotupdate_axum::Serve {
/// server.http2(|http2| {
///     http2
///         .max_concurrent_streams(500)
///         .keep_alive(Duration::from_secs(20), Duration::from_secs(10))
///         .initial_stream_window_size(256 * 1024)
///         .initial_connection_window_size(4 << 20)
///         .max_frame_size(64 * 1024)
///         .max_header_list_size(32 * 1024)
///         .max_send_buffer_size(256 * 1024)
/// })
/// # }
/// ```
#[cfg(feature = "http2")]
#[cfg_attr(docsrs, doc(cfg(feature = "http2")))]
#[derive(Clone, Debug, Default)]
#[must_use = "settings are returned, not changed in place"]
pub struct Http2 {
    max_concurrent_streams: Option<u32>,
    keep_alive: Option<(Duration, Duration)>,
    initial_stream_window_size: Option<u32>,
    initial_connection_window_size: Option<u32>,
    adaptive_window: bool,
    max_frame_size: Option<u32>,
    max_header_list_size: Option<u32>,
    max_send_buffer_size: Option<usize>,
}

#[cfg(feature = "http2")]
impl Http2 {
    /// The most requests that a client may have in flight on one connection
    /// (`SETTINGS_MAX_CONCURRENT_STREAMS`), 200 by default.
    pub fn max_concurrent_streams(mut self, streams: u32) -> Self {
        self.max_concurrent_streams = Some(streams);
        self
    }

    /// Sends a PING after each `interval`, and closes the connection if its answer does not come within
    /// `timeout`. None is sent by default: a client that has vanished without a word is noticed when
    /// something is sent to it.
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keep_alive = Some((interval, timeout));
        self
    }

    /// How many bytes of a request's body a client may send ahead (`SETTINGS_INITIAL_WINDOW_SIZE`), 1 MiB by
    /// default.
    pub fn initial_stream_window_size(mut self, bytes: u32) -> Self {
        self.initial_stream_window_size = Some(bytes.min(MAX_WINDOW_SIZE));
        self
    }

    /// How many bytes of all bodies of a connection a client may send ahead, 1 MiB by default.
    pub fn initial_connection_window_size(mut self, bytes: u32) -> Self {
        self.initial_connection_window_size = Some(bytes.min(MAX_WINDOW_SIZE));
        self
    }

    /// Whether both windows are adapted to the measured delay and throughput of a connection; then their
    /// initial sizes are not used. Off by default.
    pub fn adaptive_window(mut self, adaptive: bool) -> Self {
        self.adaptive_window = adaptive;
        self
    }

    /// The largest frame that a client may send (`SETTINGS_MAX_FRAME_SIZE`): 16 KiB by default, and at least;
    /// 16 MiB - 1 at most.
    pub fn max_frame_size(mut self, bytes: u32) -> Self {
        // RFC 9113, section 6.5.2; hyper panics outside.
        self.max_frame_size = Some(bytes.clamp(1 << 14, (1 << 24) - 1));
        self
    }

    /// The most bytes of the header fields of a request, uncompressed (`SETTINGS_MAX_HEADER_LIST_SIZE`), 16
    /// KiB by default.
    pub fn max_header_list_size(mut self, bytes: u32) -> Self {
        self.max_header_list_size = Some(bytes);
        self
    }

    /// The most bytes of a response that are buffered for each stream, 400 KiB by default.
    pub fn max_send_buffer_size(mut self, bytes: usize) -> Self {
        // hyper takes a number of 32 bits and panics otherwise.
        self.max_send_buffer_size = Some(bytes.min(u32::MAX as usize));
        self
    }

    /// `before` is what an earlier version has announced to a client that is still there. It keeps to that,
    /// so it gets no less.
    pub(crate) fn builder(
        &self,
        before: Option<&hotupdate_h2::Settings>,
    ) -> hyper::server::conn::http2::Builder<hyper_util::rt::TokioExecutor> {
        let Self {
            max_concurrent_streams,
            keep_alive,
            initial_stream_window_size,
            initial_connection_window_size,
            adaptive_window,
            max_frame_size,
            max_header_list_size,
            max_send_buffer_size,
        } = self;
        let mut builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        // WebSockets over HTTP/2 (RFC 8441), as with `axum::serve`.
        builder.timer(hyper_util::rt::TokioTimer::new()).enable_connect_protocol();
        max_concurrent_streams.map(|streams| builder.max_concurrent_streams(streams));
        keep_alive
            .map(|(interval, timeout)| builder.keep_alive_interval(interval).keep_alive_timeout(timeout));
        initial_stream_window_size.map(|bytes| builder.initial_stream_window_size(bytes));
        initial_connection_window_size.map(|bytes| builder.initial_connection_window_size(bytes));
        adaptive_window.then(|| builder.adaptive_window(true));
        max_frame_size.map(|bytes| builder.max_frame_size(bytes));
        max_header_list_size.map(|bytes| builder.max_header_list_size(bytes));
        max_send_buffer_size.map(|bytes| builder.max_send_buf_size(bytes));
        if let Some(before) = before {
            let announced = |setting, now: Option<u32>| {
                before.announced(setting).filter(|before| now.is_none_or(|now| *before > now))
            };
            announced(Setting::InitialWindowSize, *initial_stream_window_size)
                .map(|bytes| builder.initial_stream_window_size(bytes));
            announced(Setting::MaxFrameSize, *max_frame_size).map(|bytes| builder.max_frame_size(bytes));
        }
        builder
    }
}

/// All settings of one server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Whether requests have `ConnectInfo`.
    pub(crate) connect_info: bool,
    pub(crate) http1: Http1,
    #[cfg(feature = "http2")]
    pub(crate) http2: Http2,
}

impl Settings {
    /// Whether the server says something to clients of HTTP/2 that are silent.
    pub(crate) fn pings(&self) -> bool {
        #[cfg(feature = "http2")]
        return self.http2.keep_alive.is_some();
        #[cfg(not(feature = "http2"))]
        false
    }
}
