//! Streams that end with the token that they were opened with.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

use crate::access::TokenEnd;

/// Has an answer end with the token: a WebSocket by cutting its connection,
/// a stream by breaking it off. What is said at once needs no watching.
pub(super) fn until(end: TokenEnd, cut: &CancellationToken, answer: Response) -> Response {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let cut = cut.clone();
        tokio::spawn(async move {
            tokio::select! {
                // Nothing is lost by either: the token stays ended, the
                // connection closed.
                () = end.over() => cut.cancel(),
                () = cut.cancelled() => {}
            }
        });
        return answer;
    }
    if answer.body().size_hint().exact().is_some() {
        return answer;
    }
    answer.map(|body| Body::new(Until { body, over: Box::pin(end.over()) }))
}

struct Until {
    body: Body,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over.as_mut().poll(cx).is_ready() {
            let ended = std::io::Error::other("the token that this was asked with has ended");
            return Poll::Ready(Some(Err(axum::Error::new(ended))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
