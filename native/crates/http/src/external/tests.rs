use super::grpc::{
    AskedRequest, CheckRequest, CheckResponse, DeniedResponse, Header, HeaderOption, HttpResponse,
    HttpStatus, OkResponse, RpcStatus, Truth,
};
use super::*;
use crate::hygiene::{self, HeaderLimits};
use crate::path::PathSettings;
use http::Request;
use meltemi_types::meltemi::{CheckBody, ExternalAuthorizer, GrpcCheck, HttpCheck, external_authorizer};
use prost::Message;

fn message(protocol: external_authorizer::Protocol) -> ExternalAuthorizer {
    ExternalAuthorizer {
        service: "shop/authz.shop.svc.cluster.local".into(),
        port: 9000,
        timeout_ms: 1000,
        protocol: Some(protocol),
        ..Default::default()
    }
}

fn plain() -> Authorizer {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let http = HttpCheck {
        path_prefix: "/check/".into(),
        request_headers: texts(&["x-a*", "*-b", "host"]),
        further_headers: vec![meltemi_types::meltemi::HeaderValue {
            name: "x-a2".into(),
            value: "ours".into(),
        }],
        to_upstream: texts(&["x-user", "content-length"]),
        to_downstream_on_deny: texts(&["x-why"]),
        to_downstream_on_allow: texts(&["x-client"]),
    };
    authorizer("plain", &message(external_authorizer::Protocol::Http(http))).unwrap()
}

fn grpc() -> Authorizer {
    authorizer("rpc", &message(external_authorizer::Protocol::Grpc(GrpcCheck {}))).unwrap()
}

/// Asks about one request.
fn asked(authorizer: &Authorizer, body: Option<&(Bytes, bool)>) -> Question {
    let request = Request::builder().method("PUT").uri("/a/../b?c=1").header("host", "Cart:80");
    let headers =
        [("x-a1", "1"), ("x-a1", "2"), ("x-a2", "theirs"), ("my-b", "3"), ("authorization", "Bearer t")];
    let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    let admitted = hygiene::admit(&mut parts, PathSettings::default(), HeaderLimits { count: 100 }).unwrap();
    let ip = "10.0.0.7".parse().unwrap();
    let identity = Some("spiffe://td/ns/web/sa/a".parse().unwrap());
    let caller = Caller { identity, source_ip: ip, remote_ip: ip };
    let about = About {
        caller: &caller,
        destination: "10.96.0.1".parse().unwrap(),
        port: 80,
        method: &parts.method,
        version: parts.version,
        admitted: &admitted,
        headers: &parts.headers,
        body,
    };
    authorizer.question(&about).unwrap()
}

/// What an authorizer's answer comes to, in a line.
fn said(answer: Result<Response, String>) -> String {
    match answer {
        Err(problem) => format!("failed: {problem}"),
        Ok(Response::Denied(denial)) => {
            let names: Vec<_> = denial.headers.keys().map(HeaderName::as_str).collect();
            format!("denied {} {names:?} {:?}", denial.status.as_u16(), denial.body)
        }
        Ok(Response::Allowed(changes)) => {
            let mut headers = HeaderMap::from_iter([
                ("x-user".parse().unwrap(), "spoofed".parse().unwrap()),
                ("x-gone".parse().unwrap(), "1".parse().unwrap()),
                ("host".parse().unwrap(), "cart".parse().unwrap()),
            ]);
            let response = changes.response.len();
            changes.apply(&mut headers);
            let mut list: Vec<_> = headers.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
            list.sort();
            format!("allowed {} +{response}", list.join(" "))
        }
    }
}

#[test]
fn over_http_the_request_is_asked_about_below_a_prefix() {
    let question = asked(&plain(), Some(&(Bytes::from_static(b"body"), true)));
    assert_eq!(question.method, "PUT");
    assert_eq!(question.target, "/check/b?c=1");
    assert_eq!(question.authority, "Cart:80");
    assert_eq!(question.body, "body");
    let mut headers: Vec<_> =
        question.headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
    headers.sort();
    assert_eq!(headers, ["my-b=3", "x-a1=1", "x-a1=2", "x-a2=ours", "x-envoy-auth-partial-body=true"]);
}

#[test]
fn over_http_200_allows_and_a_servers_error_is_no_answer() {
    let answer = |status: u16| {
        let mut parts = http::Response::new(()).into_parts().0;
        parts.status = StatusCode::from_u16(status).unwrap();
        for name in ["x-user", "x-client", "x-why", "x-more", "location", "content-length", "connection"] {
            parts.headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        said(plain().answer(&parts, None, Bytes::from_static(b"no")))
    };
    assert_eq!(answer(200), r#"allowed host="cart" x-gone="1" x-user="1" +1"#);
    assert_eq!(answer(302), r#"denied 302 ["x-why", "location"] b"no""#);
    assert_eq!(answer(401), r#"denied 401 ["x-why", "location"] b"no""#);
    assert_eq!(answer(204), r#"denied 204 ["x-why", "location"] b"no""#);
    assert_eq!(answer(503), "failed: it answered 503");
}

#[test]
fn over_grpc_all_of_the_request_is_told() {
    let question = asked(&grpc(), Some(&(Bytes::from_static(b"body"), false)));
    assert_eq!((question.method.as_str(), question.http2), ("POST", true));
    assert_eq!(question.authority, "authz.shop.svc.cluster.local:9000");
    assert_eq!(question.headers["te"], "trailers");
    let length = (question.body.len() - 5) as u32;
    assert_eq!((question.body[0], &question.body[1..5]), (0, &length.to_be_bytes()[..]));
}

#[test]
fn over_grpc_the_message_has_the_public_numbers() {
    let question = asked(&grpc(), None);
    let sent = CheckRequest::decode(&question.body[5..]).unwrap().attributes.unwrap();
    assert_eq!(sent.source.unwrap().principal, "spiffe://td/ns/web/sa/a");
    assert_eq!(sent.destination.unwrap().address.unwrap().socket.unwrap().port, 80);
    let AskedRequest { http: Some(http), .. } = sent.request.unwrap() else { panic!("no http") };
    assert_eq!((http.method.as_str(), http.path.as_str(), http.host.as_str()), ("PUT", "/b?c=1", "Cart:80"));
    assert_eq!(http.headers["x-a1"], "1,2");
    assert_eq!(http.headers["authorization"], "Bearer t");
    assert_eq!(http.headers[":path"], "/b?c=1");
}

#[test]
fn over_grpc_answers_are_read_to_the_letter_or_not_at_all() {
    let option = |key: &str, value: &str, append: bool| HeaderOption {
        header: Some(Header { key: key.into(), value: value.into(), raw_value: vec![] }),
        append: append.then_some(Truth { value: true }),
    };
    let answer = |status, response: &CheckResponse| {
        let bytes = response.encode_to_vec();
        let mut body = vec![0, 0, 0, 0, bytes.len() as u8];
        body.extend(bytes);
        said(super::grpc::answer(status, &body))
    };
    let code = |code| Some(RpcStatus { code });
    let ok = OkResponse {
        headers: vec![
            option("x-user", "ann", false),
            option("x-user", "bob", true),
            option("host", "evil", false),
        ],
        headers_to_remove: vec!["x-gone".into(), "host".into(), "bad name".into()],
        response_headers: vec![option("x-client", "1", false)],
    };
    let allowed = CheckResponse { status: code(0), http: Some(HttpResponse::Allowed(ok.clone())) };
    assert_eq!(answer(Some(0), &allowed), r#"allowed host="cart" x-user="ann" x-user="bob" +1"#);
    assert_eq!(
        answer(Some(0), &CheckResponse::default()),
        r#"allowed host="cart" x-gone="1" x-user="spoofed" +0"#
    );
    let denied = DeniedResponse {
        status: Some(HttpStatus { code: 429 }),
        headers: vec![option("x-why", "1", false)],
        body: b"slow down".to_vec(),
    };
    let no = CheckResponse { status: code(7), http: Some(HttpResponse::Denied(denied.clone())) };
    assert_eq!(answer(Some(0), &no), r#"denied 429 ["x-why"] b"slow down""#);
    // A refusal is one, whatever stands beside it.
    let contradiction = CheckResponse { status: code(7), http: Some(HttpResponse::Allowed(ok)) };
    assert_eq!(answer(Some(0), &contradiction), r#"denied 403 [] b"""#);
    let contradiction = CheckResponse { status: code(0), http: Some(HttpResponse::Denied(denied)) };
    assert!(answer(Some(0), &contradiction).starts_with("failed: "));
    assert!(answer(Some(14), &allowed).starts_with("failed: it answered with grpc-status 14"));
    assert!(answer(None, &allowed).starts_with("failed: its answer has no grpc-status"));
    for body in [&b""[..], b"\0\0\0\0\x01", b"\x01\0\0\0\0", b"\0\0\0\0\x01\xff", b"\0\0\0\0\0\0"] {
        assert!(said(super::grpc::answer(Some(0), body)).starts_with("failed: "), "{body:?}");
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    type Change = fn(&mut ExternalAuthorizer);
    let cases: &[(&str, Change)] = &[
        ("service", |m| m.service.clear()),
        ("port", |m| m.port = 0),
        ("timeout_ms", |m| m.timeout_ms = 0),
        ("status_on_error", |m| m.status_on_error = 200),
        ("protocol", |m| m.protocol = None),
        ("body.max_bytes", |m| m.body = Some(CheckBody::default())),
        ("http.path_prefix", |m| {
            let http = HttpCheck { path_prefix: "check".into(), ..Default::default() };
            m.protocol = Some(external_authorizer::Protocol::Http(http));
        }),
        ("http.to_upstream", |m| {
            let http = HttpCheck { to_upstream: vec!["a*b".into()], ..Default::default() };
            m.protocol = Some(external_authorizer::Protocol::Http(http));
        }),
    ];
    for (field, change) in cases {
        let mut bad = message(external_authorizer::Protocol::Grpc(GrpcCheck {}));
        change(&mut bad);
        let error = authorizer("p", &bad).unwrap_err();
        assert_eq!(error.field, format!("external.{field}"), "{error}");
    }
}
