//! A host between two others that passes on what they say, and can be told to cut connections at a byte, to
//! let them fall silent, to hold bytes back, or to pass them on slowly. Of what it passes on it understands
//! how long records of TLS are, so as to say where it has cut one.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use synod_sidecar::net::{TcpListener, TcpStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Where it is.
pub(crate) const HOST: &str = "relay";
/// Read at once.
const PIECE: usize = 16 << 10;

/// A direction on a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From who has connected.
    There,
    /// To who has connected.
    Back,
}

/// Where a connection is cut: the sender of the byte behind `after` others gets a reset, the other side
/// the end of the stream, if nothing that it has sent itself is on its way just then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) way: Way,
    /// Bytes of that way which still pass.
    pub(crate) after: u64,
}

/// One port, and where its connections go.
pub(crate) struct Line {
    pub(crate) port: u16,
    target: String,
    /// One for each of the next connections.
    cuts: RefCell<VecDeque<Cut>>,
    /// Those that were carried out: how many records had passed that way.
    done: RefCell<Vec<(Way, u32)>>,
    connections: Cell<u32>,
    /// Those that have not ended.
    open: Cell<u32>,
    /// Ends all connections that there are.
    live: RefCell<CancellationToken>,
    /// Shared by all connections that there are: nothing passes.
    silent: RefCell<Rc<Cell<bool>>>,
    /// Ends of silent connections that their owners have given up.
    given_up: Cell<u32>,
    /// How each way passes bytes on.
    flow: BTreeMap<bool, watch::Sender<Flow>>,
    /// Bytes that have passed, each way.
    passed: RefCell<BTreeMap<bool, u64>>,
}

/// What is to become of one connection.
struct Link {
    cut: Option<Cut>,
    live: CancellationToken,
    silent: Rc<Cell<bool>>,
}

/// Records of TLS that have passed one way (RFC 8446, 5.1).
#[derive(Default)]
struct Records {
    whole: u32,
    header: Vec<u8>,
    left: usize,
}

/// How bytes are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Free,
    /// None is read.
    Held,
    /// So many in a second.
    Slow(u64),
}

// === impl Line ===

impl Line {
    pub(crate) fn new(port: u16, target: String) -> Rc<Self> {
        let ways = || [Way::There, Way::Back].into_iter().map(Way::key);
        Rc::new(Self {
            port,
            target,
            cuts: RefCell::default(),
            done: RefCell::default(),
            connections: Cell::default(),
            open: Cell::default(),
            live: RefCell::default(),
            silent: RefCell::default(),
            given_up: Cell::default(),
            flow: ways()
                .map(|it| (it, watch::Sender::new(Flow::Free)))
                .collect(),
            passed: RefCell::new(ways().map(|it| (it, 0)).collect()),
        })
    }

    /// How to get to it.
    pub(crate) fn address(&self) -> String {
        format!("{HOST}:{}", self.port)
    }

    /// The next connection is cut there.
    pub(crate) fn cut_next(&self, cut: Cut) {
        self.cuts.borrow_mut().push_back(cut);
    }

    /// No connection is cut from now on that was not made yet.
    pub(crate) fn spare(&self) {
        self.cuts.borrow_mut().clear();
    }

    /// How many were made.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.get()
    }

    /// Where connections were cut: which way, and how many records of TLS had passed.
    pub(crate) fn cuts(&self) -> Vec<(Way, u32)> {
        self.done.borrow().clone()
    }

    /// From now on nothing passes on the connections that there are, and neither side hears of the
    /// other's end. Says how many there are.
    pub(crate) fn silence(&self) -> u32 {
        self.silent.take().set(true);
        self.open.get()
    }

    /// How many sides have given up a silent connection.
    pub(crate) fn given_up(&self) -> u32 {
        self.given_up.get()
    }

    /// Cuts all connections that there are.
    pub(crate) fn cut_all(&self) {
        self.live.take().cancel();
    }

    pub(crate) fn set(&self, way: Way, flow: Flow) {
        self.flow[&way.key()].send_replace(flow);
    }

    /// Bytes that have passed.
    pub(crate) fn passed(&self, way: Way) -> u64 {
        self.passed.borrow()[&way.key()]
    }

    /// Passes on for ever.
    pub(crate) async fn serve(self: Rc<Self>) -> Infallible {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port));
        let listener = TcpListener::bind(any).await.expect("its port is free");
        loop {
            let (stream, _) = listener.accept().await.expect("it listens");
            tokio::task::spawn_local(self.clone().pass_on(stream));
        }
    }

    async fn pass_on(self: Rc<Self>, from: TcpStream) {
        let link = Link {
            cut: self.cuts.borrow_mut().pop_front(),
            live: self.live.borrow().child_token(),
            silent: self.silent.borrow().clone(),
        };
        let Ok(to) = TcpStream::connect(self.target.as_str()).await else {
            return;
        };
        self.connections.set(self.connections.get() + 1);
        let (mut from_read, mut from_write) = from.into_split();
        let (mut to_read, mut to_write) = to.into_split();
        self.open.set(self.open.get() + 1);
        let there = self.pump(Way::There, &mut from_read, &mut to_write, &link);
        let back = self.pump(Way::Back, &mut to_read, &mut from_write, &link);
        let both = async { tokio::join!(there, back) };
        link.live.run_until_cancelled(both).await;
        self.open.set(self.open.get() - 1);
        // What was sent and not read resets its sender, as long as nothing was said about an end.
        drop((from_read, to_read));
    }

    async fn pump(&self, way: Way, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, link: &Link) {
        let mut left = link.cut.filter(|it| it.way == way).map(|it| it.after);
        let mut records = Records::default();
        let mut flow = self.flow[&way.key()].subscribe();
        let mut piece = vec![0; PIECE];
        loop {
            let room = left.unwrap_or(u64::MAX).min(PIECE as u64) as usize;
            if room == 0 && matches!(from.peek(&mut [0]).await, Ok(1)) {
                self.done.borrow_mut().push((way, records.whole));
                return link.live.cancel();
            }
            let waits = flow.wait_for(|it| *it != Flow::Held).await;
            let slow = *waits.expect("the line has the sender");
            let read = from.read(&mut piece[..room]).await;
            if link.silent.get() {
                if matches!(read, Ok(0) | Err(_)) {
                    return self.given_up.set(self.given_up.get() + 1);
                }
                continue;
            }
            match read {
                Ok(0) => return drop(to.shutdown().await),
                Ok(read) => {
                    left = left.map(|it| it - read as u64);
                    records.take(&piece[..read]);
                    if let Flow::Slow(bytes) = slow {
                        sleep(Duration::from_secs_f64(read as f64 / bytes as f64)).await;
                    }
                    if to.write_all(&piece[..read]).await.is_err() {
                        return link.live.cancel();
                    }
                    *self.passed.borrow_mut().get_mut(&way.key()).expect("both") += read as u64;
                }
                Err(_) => return link.live.cancel(),
            }
        }
    }
}

impl Records {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.header.len() < 5 {
                self.header.push(*byte);
                self.left = usize::from(self.header[self.header.len().saturating_sub(2)]) << 8;
                self.left += usize::from(*byte);
                continue;
            }
            self.left -= 1;
            if self.left == 0 {
                self.whole += 1;
                self.header.clear();
            }
        }
    }
}

impl Way {
    fn key(self) -> bool {
        self == Self::Back
    }
}
