//! One trace, from a request to the guest's answer, as a collector gets it.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use futures_util::StreamExt;
use hyper::Request;
use inn_otlp::wire::{ExportRequest, Span, any_value};
use inn_otlp::{Settings, export};
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::PATIENCE;
use super::agent::{TestAgent, request};

/// Of whoever asks.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const ASKING: &str = "00f067aa0ba902b7";

/// A collector of OpenTelemetry's, and what has come to it.
struct Collector {
    endpoint: String,
    came: mpsc::Receiver<Bytes>,
    spans: Vec<Span>,
}

impl Collector {
    async fn start() -> Self {
        let (sender, came) = mpsc::channel(64);
        let take = |State(sender): State<mpsc::Sender<Bytes>>, body: Bytes| async move {
            sender.send(body).await.unwrap();
        };
        let app = Router::new().route("/v1/traces", post(take)).with_state(sender);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { endpoint, came, spans: Vec::new() }
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.endpoint.clone(),
            headers: Vec::new(),
            service: "innkeeper".to_owned(),
            version: "0".to_owned(),
            node: "node-1".to_owned(),
        }
    }

    /// The one of that name in the trace of whoever asks, once it has come.
    async fn span(&mut self, trace: &str, name: &str) -> Span {
        loop {
            let is_it = |span: &&Span| span.name == name && hex(&span.trace_id) == trace;
            if let Some(span) = self.spans.iter().find(is_it) {
                return span.clone();
            }
            let came = tokio::time::timeout(PATIENCE, self.came.recv()).await;
            let seen = || self.spans.iter().map(|span| &span.name).collect::<Vec<_>>();
            let came = came.unwrap_or_else(|_| panic!("no {name}: {:?}", seen())).unwrap();
            let request = ExportRequest::decode(came).unwrap();
            let scopes = request.resource_spans.into_iter().flat_map(|of| of.scope_spans);
            self.spans.extend(scopes.flat_map(|scope| scope.spans));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> any_value::Value {
    let found = span.attributes.iter().find(|pair| pair.key == key);
    found.unwrap_or_else(|| panic!("no {key}: {span:?}")).value.clone().unwrap().value.unwrap()
}

fn traceparent() -> String {
    format!("00-{TRACE}-{ASKING}-01")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_leads_from_a_request_to_the_guest_s_answer() {
    let agent = TestAgent::start().await;
    let mut collector = Collector::start().await;
    export(agent.node.tracer.connect().unwrap(), collector.settings()).unwrap();

    // A VM is made, and comes up.
    let asked = Request::post("/api/vms?wait=60s")
        .header("content-type", "application/json")
        .header("traceparent", traceparent());
    let made = agent.client.send(asked, &request("web", json!({})).to_string()).await;
    assert_eq!(made.status, 201, "{}", made.json());
    let create = collector.span(TRACE, "POST /api/vms").await;
    assert_eq!((hex(&create.parent_span_id), create.kind), (ASKING.to_owned(), 2));
    let told = format!("00-{TRACE}-{}-01", hex(&create.span_id));
    assert_eq!(made.header("traceparent"), told);
    let status = attribute(&create, "http.response.status_code");
    assert_eq!(status, any_value::Value::Number(201));
    for step in ["prepare-disk", "launch", "handshake", "configure", "start-workload"] {
        let span = collector.span(TRACE, step).await;
        assert_eq!(span.parent_span_id, create.span_id, "{step}");
        assert!(span.start_time_unix_nano >= create.start_time_unix_nano, "{step}");
        let name = attribute(&span, "inn.vm.name");
        assert_eq!(name, any_value::Value::Text("web".to_owned()));
    }
    let launch = collector.span(TRACE, "launch").await;
    let vmm = collector.span(TRACE, "vmm launch").await;
    assert_eq!((vmm.parent_span_id, vmm.kind), (launch.span_id, 3));
    assert!(vmm.end_time_unix_nano <= launch.end_time_unix_nano);

    // A command in its guest.
    let path = "/api/vms/web/exec?stdout=true&command=exit&command=7";
    let traceparent = traceparent();
    let headers = [
        ("sec-websocket-protocol", inn_api::exec::SUBPROTOCOL),
        ("traceparent", traceparent.as_str()),
    ];
    let socket = agent.client.websocket_with(path, &headers).await.unwrap();
    socket.for_each(|_| async {}).await;
    let asked = collector.span(TRACE, "GET /api/vms/{vm}/exec").await;
    assert_eq!(hex(&asked.parent_span_id), ASKING);
    let exec = collector.span(TRACE, "exec").await;
    assert_eq!((exec.parent_span_id.clone(), exec.kind), (asked.span_id, 3));
    assert_eq!(attribute(&exec, "process.exit.code"), any_value::Value::Number(7));
    assert_eq!(exec.status, None, "a command that fails is an answer");

    // An operation, which outlives its request.
    let asked = Request::post("/api/vms/web/snapshot?wait=60s")
        .header("content-type", "application/json")
        .header("traceparent", traceparent.as_str());
    agent.client.send(asked, &json!({ "name": "golden" }).to_string()).await;
    let asked = collector.span(TRACE, "POST /api/vms/{vm}/snapshot").await;
    let operation = collector.span(TRACE, "vm-snapshot").await;
    assert_eq!(operation.parent_span_id, asked.span_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_problem_names_its_trace_and_nobody_s_work_is_of_none() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let quiet = agent.client.get("/api/vms/none").await;
    assert_eq!(quiet.header("traceparent"), "", "nobody traces");
    let mut collector = Collector::start().await;
    export(agent.node.tracer.connect().unwrap(), collector.settings()).unwrap();
    let problem = agent.client.get("/api/vms/none").await;
    let told: inn_trace::Context = problem.header("traceparent").parse().unwrap();
    let span = collector.span(&told.trace.to_string(), "GET /api/vms/{vm}").await;
    assert_eq!((span.span_id, span.parent_span_id.len()), (told.span.0.to_vec(), 0));
    // What is no traceparent begins a trace of its own, and one that is not
    // recorded is passed on.
    let asked = |parent: String| Request::get("/api/vms/none").header("traceparent", parent);
    let odd = agent.client.send(asked("00-zz".to_owned()), "").await;
    assert!(odd.header("traceparent").parse::<inn_trace::Context>().unwrap().sampled);
    let unsampled = agent.client.send(asked(format!("00-{TRACE}-{ASKING}-00")), "").await;
    let told = unsampled.header("traceparent");
    assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-00"), "{told}");
    // The same name twice is no end of the first one's trace: what is asked for
    // last is what the steps are of.
    let stopped = agent.client.post("/api/vms/web/stop?wait=60s", &json!({ "force": true })).await;
    let told: inn_trace::Context = stopped.header("traceparent").parse().unwrap();
    let stop = collector.span(&told.trace.to_string(), "POST /api/vms/{vm}/stop").await;
    assert_eq!(stop.span_id, told.span.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_that_find_no_room_are_counted() {
    let agent = TestAgent::start().await;
    let told = async || {
        let text = agent.client.get("/metrics").await.body;
        let text = String::from_utf8(text.to_vec()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("inn_trace_spans_lost_total "));
        line.map(|lost| lost.parse::<u64>().unwrap())
    };
    assert_eq!(told().await, None, "nothing is exported");
    let _nobody_takes_them = agent.node.tracer.connect().unwrap();
    for _ in 0..10_000 {
        drop(agent.node.tracer.begin("work", inn_trace::Kind::Internal, None));
    }
    assert!(told().await.is_some_and(|lost| (1..10_100).contains(&lost)));
}
