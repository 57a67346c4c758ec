//! A server of HTTP/1.1 that can lie, stall and cut, which proper ones can't.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

type Handler = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// Serves until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With its query; with a scheme and a host at a proxy.
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Where the range that is asked for begins.
    pub(crate) fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// What Content-Length says; the body's unless set. None: chunked.
    length: Option<u64>,
    /// After so many bytes of the body the connection is closed, or nothing
    /// more is sent.
    cut: Option<usize>,
    stall: Option<usize>,
    endless: bool,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            length: Some(0),
            cut: None,
            stall: None,
            endless: false,
        }
    }

    pub(crate) fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::status(200).body(body)
    }

    /// What is asked for, by range or whole.
    pub(crate) fn part(request: &Request, whole: &[u8]) -> Self {
        match request.from() {
            None => Self::ok(whole),
            Some(from) if from >= whole.len() => {
                Self::status(416).header("Content-Range", &format!("bytes */{}", whole.len()))
            }
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", whole.len() - 1, whole.len());
                let mut reply = Self::ok(&whole[from..]).header("Content-Range", &range);
                reply.status = 206;
                reply
            }
        }
    }

    pub(crate) fn redirect(to: &str) -> Self {
        Self::status(307).header("Location", to)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self.length = Some(self.body.len() as u64);
        self
    }

    pub(crate) fn content(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn length(mut self, length: Option<u64>) -> Self {
        self.length = length;
        self
    }

    pub(crate) fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    pub(crate) fn stall(mut self, after: usize) -> Self {
        self.stall = Some(after);
        self
    }

    pub(crate) fn endless(mut self) -> Self {
        self.endless = true;
        self.length = None;
        self
    }
}

impl Server {
    pub(crate) async fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(Arc::new(handler), None).await
    }

    pub(crate) async fn start_tls(
        acceptor: TlsAcceptor,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(Arc::new(handler), Some(acceptor)).await
    }

    async fn serve(handler: Handler, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, noted, tls) = (handler.clone(), Arc::clone(&noted), tls.clone());
                connections.spawn(async move {
                    // Clients that go away are what many tests are about.
                    let _ = match tls {
                        None => exchange(stream, &handler, &noted).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => exchange(stream, &handler, &noted).await,
                            Err(e) => Err(e),
                        },
                    };
                });
            }
        });
        Self { address, seen, task }
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

/// One request and its reply; then the connection ends.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    handler: &Handler,
    seen: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let Some(request) = read(&mut stream).await? else { return Ok(()) };
    let reply = handler(&request);
    seen.lock().unwrap().push(request);
    let mut head = format!("HTTP/1.1 {} Said\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &match reply.length {
        Some(length) => format!("Content-Length: {length}\r\n\r\n"),
        None => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
    };
    stream.write_all(head.as_bytes()).await?;
    let end = reply.cut.or(reply.stall).unwrap_or(reply.body.len());
    let chunked = reply.length.is_none();
    for part in reply.body[..end].chunks(64 << 10) {
        send(&mut stream, part, chunked).await?;
    }
    if reply.endless {
        loop {
            send(&mut stream, &[b' '; 64 << 10], chunked).await?;
        }
    }
    stream.flush().await?;
    if reply.stall.is_some() {
        // Until the client has had enough.
        stream.read_exact(&mut [0; 1]).await?;
    } else if chunked && reply.cut.is_none() {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    stream.shutdown().await
}

async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    part: &[u8],
    chunked: bool,
) -> std::io::Result<()> {
    if chunked {
        stream.write_all(format!("{:x}\r\n", part.len()).as_bytes()).await?;
    }
    stream.write_all(part).await?;
    if chunked {
        stream.write_all(b"\r\n").await?;
    }
    Ok(())
}

async fn read(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> std::io::Result<Option<Request>> {
    let mut text = Vec::new();
    let head = loop {
        if let Some(end) = text.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut text).await? == 0 {
            return Ok(None);
        }
        // A client that begins with TLS gets what servers tell it.
        if text[0] == 0x16 {
            stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await?;
            return Ok(None);
        }
    };
    let lines = String::from_utf8_lossy(&text[..head]).into_owned();
    let mut lines = lines.lines();
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut request = Request { method, target, headers, body: String::new() };
    let length: usize = request.header("content-length").map_or(0, |l| l.parse().unwrap());
    while text.len() < head + length {
        if stream.read_buf(&mut text).await? == 0 {
            return Ok(None);
        }
    }
    request.body = String::from_utf8_lossy(&text[head..head + length]).into_owned();
    Ok(Some(request))
}
