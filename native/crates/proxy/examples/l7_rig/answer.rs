//! What the endpoints answer: a KiB of body, and to gRPC the message that was sent.
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use tokio::io::{AsyncRead, AsyncWrite};

static BODY: [u8; 1024] = [b'x'; 1024];

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let grpc = request.headers().get("content-type").is_some_and(|value| value == "application/grpc");
    let sent = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if !grpc {
        return Ok(Response::new(Full::new(Bytes::from_static(&BODY)).boxed()));
    }
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let frames = [Ok(Frame::data(sent)), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)).boxed());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// Serves HTTP/1.1 or HTTP/2, by the client's first bytes.
pub(crate) async fn serve(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(1_000);
    let _ = builder.serve_connection(TokioIo::new(io), hyper::service::service_fn(answer)).await;
}
