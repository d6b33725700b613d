//! Simulated distance between members: each connection from one member to another goes through a
//! relay of its own that holds every byte back for half of the pair's round-trip time.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// What may be under way on one connection in one direction, in pieces of at most [`PIECE`] bytes.
const PIECES: usize = 1024;
const PIECE: usize = 64 << 10;
/// How long a relay waits when the system refuses it connections.
const PAUSE: Duration = Duration::from_millis(50);

/// Starts a relay to `target`; returns where it listens. It lives as long as the runtime.
pub(super) async fn start(target: SocketAddr, rtt: Duration) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(connection(stream, target, rtt))),
                Err(_) => sleep(PAUSE).await,
            }
        }
    });
    Ok(address)
}

async fn connection(from: TcpStream, target: SocketAddr, rtt: Duration) {
    // Connecting takes a round trip.
    sleep(rtt).await;
    let Ok(to) = TcpStream::connect(target).await else {
        return;
    };
    for stream in [&from, &to] {
        let _ = stream.set_nodelay(true);
    }
    let (from_read, from_write) = from.into_split();
    let (to_read, to_write) = to.into_split();
    tokio::select! {
        // A connection that broke one way is of no use the other way.
        Err(()) = delayed(from_read, to_write, rtt / 2) => {}
        Err(()) = delayed(to_read, from_write, rtt / 2) => {}
        else => {}
    }
}

/// Copies until the end of `from`, everything `delay` later. An error means that one side is gone.
async fn delayed(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
) -> Result<(), ()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, std::io::Result<Bytes>)>(PIECES);
    let read = async move {
        loop {
            let mut buffer = BytesMut::with_capacity(PIECE);
            let piece = from.read_buf(&mut buffer).await.map(|_| buffer.freeze());
            let last = piece.as_ref().map_or(true, Bytes::is_empty);
            if sender.send((Instant::now() + delay, piece)).await.is_err() || last {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, piece)) = receiver.recv().await {
            sleep_until(at).await;
            let piece = piece.map_err(drop)?;
            if piece.is_empty() {
                return to.shutdown().await.map_err(drop);
            }
            to.write_all(&piece).await.map_err(drop)?;
        }
        Ok(())
    };
    let ((), result) = tokio::join!(read, write);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("free");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.shutdown().await;
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_round_trip_takes_the_given_time_and_bytes_arrive_whole() {
        let rtt = Duration::from_millis(60);
        let relay = start(echo().await, rtt).await.expect("started");
        let mut stream = TcpStream::connect(relay).await.expect("connected");
        let mut answer = [0; 5];
        for _ in 0..2 {
            let begin = Instant::now();
            stream.write_all(b"hello").await.expect("sent");
            stream.read_exact(&mut answer).await.expect("answered");
            assert_eq!(&answer, b"hello");
            assert!(begin.elapsed() >= rtt);
        }
        let large: Vec<u8> = (0..3_000_000_u32).map(|it| (it % 251) as u8).collect();
        let (mut read, mut write) = stream.into_split();
        let sent = large.clone();
        tokio::spawn(async move {
            write.write_all(&sent).await.expect("sent");
            write.shutdown().await.expect("ended");
        });
        let mut back = Vec::new();
        read.read_to_end(&mut back).await.expect("read");
        assert!(back == large, "what came back differs");
    }

    #[tokio::test]
    async fn a_target_that_is_gone_ends_the_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("free");
        let target = listener.local_addr().expect("bound");
        drop(listener);
        let relay = start(target, Duration::ZERO).await.expect("started");
        let mut stream = TcpStream::connect(relay).await.expect("connected");
        let end = stream.read(&mut [0; 1]).await;
        assert!(matches!(end, Ok(0) | Err(_)));
    }
}
