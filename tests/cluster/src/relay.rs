//! Distance between regions, for kernels without `netem`. Comes in: a delay and the links to delay.
//! Goes out: each frame, that much later, in order. It makes two interfaces for each link; whoever
//! started it moves them to where they belong.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Frames on their way in one direction of a link; what comes while there are more is lost, as on
/// any long line. 40 ms of a gigabit each second.
const ROOM: usize = 4096;
/// The largest frame of an interface with the usual limit, and room for a tag.
const FRAME: usize = 1600;

/// A frame and when it is due.
type Due = (Instant, Vec<u8>);

/// The interface of a link at the core, which has this name in the end.
pub(crate) fn near(region: u8) -> String {
    format!("wan{region}")
}

/// The other one, until it is moved to the region.
pub(crate) fn far(region: u8) -> String {
    format!("far{region}")
}

/// Delays every frame of the links of these regions by `delay`, in each direction, until it is
/// killed; the interfaces go with it.
pub fn run(delay: Duration, regions: &[u8]) -> Result<()> {
    let mut threads = Vec::new();
    for &region in regions {
        let (near, far) = (interface(&near(region))?, interface(&far(region))?);
        threads.extend(line(near.clone(), far.clone(), delay));
        threads.extend(line(far, near, delay));
    }
    for thread in threads {
        thread
            .join()
            .ok()
            .context("a thread of the relay has ended")??;
    }
    Ok(())
}

fn interface(name: &str) -> Result<Arc<SyncDevice>> {
    let builder = DeviceBuilder::new().name(name).layer(Layer::L2);
    // It is put up by those who move it.
    let device = builder.inherit_enable_state().build_sync();
    let device =
        device.with_context(|| format!("making interface {name}: is /dev/net/tun there?"))?;
    Ok(Arc::new(device))
}

fn line(
    from: Arc<SyncDevice>,
    to: Arc<SyncDevice>,
    delay: Duration,
) -> [thread::JoinHandle<Result<()>>; 2] {
    let (send, receive) = sync_channel(ROOM);
    [
        thread::spawn(move || take(&from, &send, delay)),
        thread::spawn(move || give(&to, &receive)),
    ]
}

fn take(from: &SyncDevice, line: &SyncSender<Due>, delay: Duration) -> Result<()> {
    let mut frame = [0; FRAME];
    loop {
        let length = match from.recv(&mut frame) {
            Ok(length) => length,
            Err(error) if is_down(&error) => {
                // Nothing comes from an interface that is down; this only waits for it to be up.
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            Err(error) => return Err(error).context("receiving a frame"),
        };
        let due = (Instant::now() + delay, frame[..length].to_vec());
        match line.try_send(due) {
            Ok(()) | Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => return Ok(()),
        }
    }
}

fn give(to: &SyncDevice, line: &Receiver<Due>) -> Result<()> {
    for (due, frame) in line {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        match to.send(&frame) {
            Ok(_) => {}
            // A link that is cut loses what is on its way.
            Err(error) if is_down(&error) => {}
            Err(error) => return Err(error).context("sending a frame"),
        }
    }
    Ok(())
}

/// What the kernel says of an interface that is down, or not yet up.
fn is_down(error: &std::io::Error) -> bool {
    let io_error = rustix::io::Errno::IO.raw_os_error();
    let bad_state = rustix::io::Errno::BADFD.raw_os_error();
    [Some(io_error), Some(bad_state)].contains(&error.raw_os_error())
        || error.kind() == ErrorKind::Interrupted
}
