//! Bytes sent as they are, for what no proper client would send.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// The other side ended the connection.
    pub closed: bool,
}

/// Sends `bytes` and reads until the other side closes, or is silent for `patience`.
pub async fn exchange(
    address: SocketAddr,
    bytes: &[u8],
    patience: Duration,
) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(address).await?;
    // It may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    read(&mut stream, patience).await
}

/// Reads until the other side closes, or is silent for `patience`.
pub async fn read(stream: &mut TcpStream, patience: Duration) -> std::io::Result<Reply> {
    let mut reply = Reply::default();
    let mut buffer = vec![0; 16 << 10];
    loop {
        match timeout(patience, stream.read(&mut buffer)).await {
            Err(_) => return Ok(reply),
            // A reset after an answer is an end as well.
            Ok(Ok(0) | Err(_)) => {
                reply.closed = true;
                return Ok(reply);
            }
            Ok(Ok(count)) => reply.bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

// === impl Reply ===

impl Reply {
    /// Status codes of all responses in it, in order.
    pub fn statuses(&self) -> Vec<u16> {
        let text = String::from_utf8_lossy(&self.bytes);
        let starts = text.match_indices("HTTP/1.");
        starts
            .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok())
            .filter(|status| *status != 100)
            .collect()
    }
}
