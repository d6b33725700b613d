//! Requests that are not ordered.

use futures::StreamExt;

use super::*;

#[tokio::test]
async fn reads_go_only_to_the_process_that_serves() {
    let mut server = Server::start(vec![]).await;
    let client = server.client();
    let result = client.send_read(get("/a"), Pool::Reads).await;
    assert!(matches!(result, Err(ReadError::NotServing)));
    client.set_reads(client.look().unwrap());
    let response = client.send_read(get("/a?b=c"), Pool::Reads).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "ok");
    assert_eq!(
        server.requests.recv().await.unwrap(),
        "GET /a?b=c HTTP/1.1\r\nhost: notes.example\r\n\r\n"
    );
    let address = server.kill().await;
    let next = Server::start_at(address, vec![]).await;
    let result = client.send_read(get("/a"), Pool::Reads).await;
    assert!(matches!(
        result,
        Err(ReadError::NotSent(NotSent::OtherInstance))
    ));
    client.doubted().await;
    assert!(next.requests.is_empty());
    client.set_reads(None);
    assert!(
        client
            .send_bypass(get("/healthz"), Pool::Reads)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn reads_run_beside_an_ordered_request_and_each_other() {
    let app = beside().await;
    let client = Arc::new(Client::new(app, Protocol::Http1, std::env::temp_dir()));
    client.set_reads(client.look().unwrap());
    let slow = tokio::spawn({
        let client = client.clone();
        async move { post(&client).await }
    });
    let reads = (0..20).map(|_| client.send_read(get("/read"), Pool::Reads));
    for response in futures::future::join_all(reads).await {
        let body = response.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "read");
    }
    assert!(!slow.is_finished());
    let release = client
        .send_bypass(get("/release"), Pool::Reads)
        .await
        .unwrap();
    assert_eq!(release.status(), StatusCode::OK);
    assert!(slow.await.unwrap().is_ok());
}

/// An app whose POST waits until somebody gets `/release`.
async fn beside() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let release = Arc::new(tokio::sync::Notify::new());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let release = release.clone();
            let service = hyper::service::service_fn(move |request: Request<_>| {
                let release = release.clone();
                async move {
                    let _: hyper::body::Incoming = match request.uri().path() {
                        "/release" => {
                            release.notify_one();
                            request.into_body()
                        }
                        "/read" => request.into_body(),
                        _ => {
                            release.notified().await;
                            request.into_body()
                        }
                    };
                    let body = Full::new(Bytes::from_static(b"read"));
                    Ok::<_, std::convert::Infallible>(http::Response::new(body))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
            );
        }
    });
    address
}

#[tokio::test]
async fn reads_go_on_beside_any_number_of_streams() {
    let app = streaming().await;
    let client = Client::new(app, Protocol::Http1, std::env::temp_dir());
    client.set_reads(client.look().unwrap());
    let mut streams = Vec::new();
    // More than there are connections for reads.
    for number in 0..140 {
        let stream = async {
            match number % 2 {
                0 => client.send_read(get("/stream"), Pool::Streams).await,
                _ => client.send_bypass(get("/stream"), Pool::Streams).await,
            }
        };
        let stream = tokio::time::timeout(Duration::from_secs(10), stream).await;
        let mut body = stream.expect("it need not wait").unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        streams.push(body);
    }
    let read = client.send_read(get("/read"), Pool::Reads);
    let read = tokio::time::timeout(Duration::from_secs(10), read).await;
    let body = read.expect("it need not wait").unwrap().into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "event");
}

/// An app whose responses begin with an event; the one to `/stream` has no end.
async fn streaming() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service =
                hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                    let first = Ok::<_, std::convert::Infallible>(http_body::Frame::data(
                        Bytes::from_static(b"event"),
                    ));
                    let first = futures::stream::iter([first]);
                    let pieces = match request.uri().path() {
                        "/stream" => first.chain(futures::stream::pending()).boxed(),
                        _ => first.boxed(),
                    };
                    let body = http_body_util::StreamBody::new(pieces);
                    Ok::<_, std::convert::Infallible>(http::Response::new(body))
                });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
            );
        }
    });
    address
}

#[tokio::test]
async fn reads_share_idle_connections() {
    let server = Server::start(vec![]).await;
    let client = server.client();
    client.set_reads(client.look().unwrap());
    for number in 0..10 {
        let response = client.send_read(get("/a"), Pool::Reads).await.unwrap();
        response.into_body().collect().await.unwrap();
        // The connection goes back at the end of the body, and is free a moment later.
        tokio::task::yield_now().await;
        if number == 0 {
            stop_the_clock();
        }
    }
    assert!(server.connections() <= 3, "{}", server.connections());
}

#[tokio::test]
async fn a_response_is_passed_on_as_it_comes() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
    let server = Server::start(vec![Turn::Say(head.into())]).await;
    let client = server.client();
    client.set_reads(client.look().unwrap());
    let mut body = client
        .send_read(get("/a"), Pool::Reads)
        .await
        .unwrap()
        .into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "half");
    server.kill().await;
    assert!(body.frame().await.unwrap().is_err(), "cut off, and said so");
}

#[tokio::test]
async fn a_read_that_met_a_closing_connection_is_sent_again_if_it_is_safe() {
    let mut server = Server::start(vec![Turn::Say(OK.into()), Turn::Reset]).await;
    let client = server.client();
    client.set_reads(client.look().unwrap());
    let response = client.send_read(get("/a"), Pool::Reads).await.unwrap();
    response.into_body().collect().await.unwrap();
    server.requests.recv().await.unwrap();
    stop_the_clock();
    let met = async {
        server.requests.recv().await.unwrap();
        tokio::time::resume();
    };
    let again = client.send_read(get("/b"), Pool::Reads);
    let (again, ()) = futures::future::join(again, met).await;
    assert_eq!(again.unwrap().status(), StatusCode::OK);
    assert!(server.requests.recv().await.unwrap().starts_with("GET /b"));
}
