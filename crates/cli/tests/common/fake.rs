//! A fake instance: it gives the answers that a test defines, and records the requests.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use serde_json::{Value, json};

pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A recorded request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method and path, such as `POST /folders`, without `/api/v1` and without the query.
    pub call: String,
    /// The query string after the `?`, not decoded.
    pub query: String,
    /// The JSON body; `null` if there was none.
    pub body: Value,
}

/// A server in place of `archivist daemon`.
pub struct Fake {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    /// The file that marks it as running.
    lock: Option<std::fs::File>,
    _runtime: tokio::runtime::Runtime,
}

type Answer = dyn Fn(&Request) -> (u16, Value) + Send + Sync;

impl Fake {
    /// Starts a server that the commands take for the instance of `home`.
    pub fn start(
        home: &Path,
        answer: impl Fn(&Request) -> (u16, Value) + Send + Sync + 'static,
    ) -> Self {
        let answer: Arc<Answer> = Arc::new(answer);
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let kept = requests.clone();
        let handle = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let (answer, kept) = (answer.clone(), kept.clone());
            async move {
                let path = uri.path().strip_prefix("/api/v1").unwrap().to_owned();
                let request = Request {
                    call: format!("{method} {path}"),
                    query: uri.query().unwrap_or_default().to_owned(),
                    body: serde_json::from_slice(&body).unwrap_or_default(),
                };
                let expected = format!("Bearer {TOKEN}");
                let token = headers.get("authorization").and_then(|value| value.to_str().ok());
                let (status, body) = if token == Some(&expected) {
                    kept.lock().unwrap().push(request.clone());
                    answer(&request)
                } else {
                    (401, json!({ "message": "no token" }))
                };
                let builder = Response::builder().status(status);
                builder.body(Body::from(body.to_string())).unwrap()
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(handle);
        runtime.spawn(async move { axum::serve(listener, router).await });
        let data = home.join("data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("api-token"), format!("{TOKEN}\n")).unwrap();
        let running = json!({ "api": address, "pid": std::process::id() });
        let path = data.join("running.json");
        std::fs::write(&path, running.to_string()).unwrap();
        let lock = std::fs::File::open(&path).unwrap();
        lock.try_lock().unwrap();
        Self { address, requests, lock: Some(lock), _runtime: runtime }
    }

    /// Turns the server into another program that listens on the port of a killed instance.
    pub fn usurp(&mut self) {
        self.lock = None;
    }

    /// Returns all requests so far, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Returns the calls so far.
    pub fn calls(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.call).collect()
    }

    /// Returns the only request of this call.
    pub fn request(&self, call: &str) -> Request {
        let mut all = self.requests();
        all.retain(|request| request.call == call);
        assert_eq!(all.len(), 1, "{call}: {:?}", self.calls());
        all.remove(0)
    }
}
