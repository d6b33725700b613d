//! Little programs that run in pods: this very program is the image of them. Comes in: arguments.
//! Goes out: answers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Waits until it is told to end: holds the namespaces of a pod.
pub async fn pause() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

/// Answers every request with `text`, and prints its first line.
pub fn serve(listen: &str, text: &str) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listening on {listen}"))?;
    for connection in listener.incoming() {
        let text = text.to_owned();
        std::thread::spawn(move || {
            if let Err(error) = connection
                .map_err(Into::into)
                .and_then(|it| answer(it, &text))
            {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

fn answer(mut connection: TcpStream, text: &str) -> Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    println!("{}", lines.next().transpose()?.unwrap_or_default());
    while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )?;
    Ok(())
}

/// Asks `HOST:PORT` for `/`, and returns the body of its answer.
pub fn ask(whom: &str, patience: Duration) -> Result<String> {
    let mut addresses = whom
        .to_socket_addrs()
        .with_context(|| format!("resolving {whom}"))?;
    let address = addresses
        .next()
        .with_context(|| format!("{whom} has no address"))?;
    let mut connection = TcpStream::connect_timeout(&address, patience)
        .with_context(|| format!("connecting to {address}"))?;
    connection.set_read_timeout(Some(patience))?;
    write!(
        connection,
        "GET / HTTP/1.1\r\nHost: {whom}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    Ok(body.to_owned())
}

/// How long it takes to connect to `HOST:PORT`, in milliseconds, so many times.
pub fn time(whom: &str, times: usize, patience: Duration) -> Result<Vec<f64>> {
    let mut addresses = whom
        .to_socket_addrs()
        .with_context(|| format!("resolving {whom}"))?;
    let address = addresses
        .next()
        .with_context(|| format!("{whom} has no address"))?;
    let once = || {
        let began = Instant::now();
        TcpStream::connect_timeout(&address, patience)?;
        Ok(began.elapsed().as_secs_f64() * 1000.0)
    };
    (0..times).map(|_| once()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_is_what_one_who_asks_gets() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        std::thread::spawn(move || answer(free.accept().unwrap().0, "hello"));
        assert_eq!(
            ask(&address.to_string(), Duration::from_secs(5)).unwrap(),
            "hello"
        );
    }
}
