//! Spans arrive at a collector, as other people's code reads them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::Receiver;
use std::time::{Duration, UNIX_EPOCH};

use inn_trace::{Context, Ended, Kind, SpanId, TraceId, Tracer, Value};
use prost::Message;

use crate::wire::ExportRequest;
use crate::{Settings, export};

/// What the Python package opentelemetry-proto 1.45.2 makes of [`span`].
const GOLDEN: &[u8] = include_bytes!("../golden/request.bin");

fn span() -> Ended {
    let began = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    Ended {
        context: Context {
            trace: TraceId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
            span: SpanId([1, 2, 3, 4, 5, 6, 7, 8]),
            sampled: true,
        },
        parent: Some(SpanId([9; 8])),
        name: "exec".to_owned(),
        kind: Kind::Client,
        began,
        ended: began + Duration::from_millis(1_500),
        attributes: vec![
            ("inn.vm.name", Value::Text("web".to_owned())),
            ("process.exit.code", Value::Number(-1)),
        ],
        failure: Some("it broke".to_owned()),
    }
}

fn settings(endpoint: String) -> Settings {
    Settings {
        endpoint,
        headers: vec![("api-key".to_owned(), "abc".to_owned())],
        service: "innkeeper".to_owned(),
        version: "0.1.0".to_owned(),
        node: "node-1".to_owned(),
    }
}

/// One request's head, in lower case, and its body.
fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).unwrap() == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    Some((head, body))
}

/// Answers each request with the next of `answers`, and passes it on.
fn collector(answers: &'static [&'static str]) -> (String, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let (sender, requests) = std::sync::mpsc::sync_channel(16);
    std::thread::spawn(move || {
        let mut answers = answers.iter();
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            while let Some(request) = request(&mut stream) {
                let Some(answer) = answers.next() else { return };
                let head = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
                stream.get_mut().write_all(head.as_bytes()).unwrap();
                sender.send(request).unwrap();
            }
        }
    });
    (endpoint, requests)
}

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_span_is_what_others_make_of_it() {
    let (endpoint, requests) = collector(&["200 OK"]);
    let (sender, spans) = std::sync::mpsc::sync_channel(1);
    let exporter = export(spans, settings(endpoint)).unwrap();
    sender.send(span()).unwrap();
    drop(sender);
    let (head, body) = requests.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
    assert!(head.contains("api-key: abc\r\n"), "{head}");
    assert_eq!(body, GOLDEN);
    exporter.join().unwrap();
}

#[test]
fn a_collector_that_is_busy_is_asked_again() {
    let (endpoint, requests) = collector(&["503 Busy", "400 No", "200 OK"]);
    let tracer = Tracer::default();
    let exporter = export(tracer.connect().unwrap(), settings(endpoint)).unwrap();
    drop(tracer.begin("first", Kind::Internal, None));
    let name = |body: &[u8]| {
        let request = ExportRequest::decode(body).unwrap();
        request.resource_spans[0].scope_spans[0].spans[0].name.clone()
    };
    let next = || name(&requests.recv_timeout(PATIENCE).unwrap().1);
    assert_eq!((next(), next()), ("first".to_owned(), "first".to_owned()));
    // What it refuses is not sent again.
    drop(tracer.begin("second", Kind::Internal, None));
    assert_eq!(next(), "second");
    drop(tracer);
    exporter.join().unwrap();
}
