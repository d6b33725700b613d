//! An end that others have time to notice: requests go on coming for a while after the process is told
//! to end, since those who send them hear of it later.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// A token that is cancelled this long after `stop` is.
pub fn linger(stop: CancellationToken, time: Duration) -> CancellationToken {
    let end = CancellationToken::new();
    let cancelled = end.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        tokio::time::sleep(time).await;
        cancelled.cancel();
    });
    end
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_comes_so_long_after_the_word() {
        let stop = CancellationToken::new();
        let end = linger(stop.clone(), Duration::from_secs(4));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(!end.is_cancelled(), "nobody said anything");
        let told = Instant::now();
        stop.cancel();
        end.cancelled().await;
        assert_eq!(told.elapsed().as_secs(), 4);
    }
}
