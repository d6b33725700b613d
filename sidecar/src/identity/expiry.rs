//! A connection proves its other side's name for as long as the certificates last that were shown, and ends
//! with the first of them: who is to be in the group no longer gets no new one, and is heard no longer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::node::clock;

/// A connection that ends at a moment.
#[derive(Debug)]
pub struct Expiring<S> {
    stream: S,
    end: Pin<Box<Sleep>>,
}

/// What is left of the certificate that ends first. One that cannot be read proves nothing.
pub(super) fn lasts(certificates: &[CertificateDer<'_>]) -> Duration {
    let end = |certificate: &CertificateDer<'_>| {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        u64::try_from(parsed.validity().not_after.timestamp()).ok()
    };
    let first = certificates.iter().map(|it| end(it).unwrap_or(0)).min();
    let now = Duration::from_nanos(clock::now().wall_ns);
    Duration::from_secs(first.unwrap_or(0)).saturating_sub(now)
}

// === impl Expiring ===

impl<S> Expiring<S> {
    pub(super) fn new(stream: S, lasts: Duration) -> Self {
        let end = Box::pin(sleep(lasts));
        Self { stream, end }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Expiring<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(context).is_ready() {
            let error = "the certificate of the other side has ended, and the connection with it";
            return Poll::Ready(Err(io::Error::other(error)));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

/// Whoever writes reads, too, and hears of the end there.
impl<S: AsyncWrite + Unpin> AsyncWrite for Expiring<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;
    use crate::identity::testing::Authority;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_read_until_its_end_and_also_ends_when_nothing_comes() {
        let (mut other, stream) = tokio::io::duplex(16);
        let mut stream = Expiring::new(stream, Duration::from_secs(10));
        other.write_u8(1).await.expect("written");
        assert_eq!(stream.read_u8().await.expect("in time"), 1);
        let early = timeout(Duration::from_secs(9), stream.read_u8()).await;
        assert!(early.is_err());
        let ended = timeout(Duration::from_secs(2), stream.read_u8()).await;
        let error = ended.expect("by then").expect_err("nothing comes");
        assert!(error.to_string().contains("has ended"), "{error}");
        other.write_u8(1).await.expect("written");
        stream.read_u8().await.expect_err("what comes later");
    }

    #[test]
    fn of_several_certificates_the_first_to_end_counts_and_one_that_cannot_be_read_has_ended() {
        let authority = Authority::new();
        let one = authority.certificate(Duration::from_secs(1000));
        let two = authority.certificate(Duration::from_secs(2000));
        let close = |lasts: Duration, seconds: u64| lasts.as_secs().abs_diff(seconds) <= 2;
        assert!(close(lasts(std::slice::from_ref(&two)), 2000));
        assert!(close(lasts(&[two.clone(), one]), 1000));
        let odd = CertificateDer::from_slice(b"odd");
        assert_eq!(lasts(&[two.clone(), odd]), Duration::ZERO);
        assert_eq!(lasts(&[]), Duration::ZERO);
        assert_eq!(
            lasts(&[authority.certificate(Duration::ZERO)]),
            Duration::ZERO
        );
    }
}
