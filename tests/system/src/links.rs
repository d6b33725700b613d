//! Links between the members of a group, which a test makes long, lossy or silent, each way by itself.
//!
//! In: the packets that members send each other, as the kernel hands them to an interface. Out: the same
//! packets, later or never. So what members meet is what a network does to their own TCP connections:
//! silence, retransmissions, connections that hang, and no process in between that has taken bytes already.
//!
//! Member `from` finds member `to` at `10.99.from.to`. Its packets are given back as if they had come from
//! `10.99.to.from`, so that what answers them takes the way back. All this is in a network namespace of the
//! scenario's own ([`leave_network`]), where everybody listens on the loopback.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

const INTERFACE: &str = "links";
/// The first two bytes of all addresses.
const NETWORK: [u8; 2] = [10, 99];
/// The kernel's own address at the interface.
const HERE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// More than the interface's largest packet.
const PACKET: usize = 2_048;
/// Packets that are under way at one time; what comes beyond is lost.
const ROOM: usize = 1 << 16;
/// How often it is seen that the links are gone.
const LOOK: Duration = Duration::from_millis(100);

/// What becomes of the packets of a link, one way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// So long they are under way.
    pub delay: Duration,
    /// The share of them that is lost, from 0 to 1.
    pub loss: f64,
    /// All of them are.
    pub cut: bool,
}

/// What has become of them so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// They came through.
    pub passed: u64,
    /// They did not.
    pub lost: u64,
}

/// All links, until this is dropped.
#[derive(Debug)]
pub struct Links {
    table: Arc<Mutex<Table>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Table {
    /// By sender and receiver.
    links: BTreeMap<(u8, u8), (Quality, Count)>,
    closed: bool,
}

/// A packet that is under way; the order is that of arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    number: u64,
    packet: Vec<u8>,
}

/// Moves this thread, and all that it starts from now on, into a network with nothing but a loopback.
pub fn leave_network() -> anyhow::Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "links between members need root: a network namespace and an interface"
    );
    let mut first = Command::new("unshare")
        .args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up && echo up && read -r end",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("unshare cannot be run")?;
    let mut line = String::new();
    let output = first.stdout.take().context("it was asked for")?;
    BufReader::new(output).read_line(&mut line)?;
    ensure!(
        line == "up\n",
        "no network namespace with a loopback can be made"
    );
    let network = File::open(format!("/proc/{}/ns/net", first.id()))?;
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
    drop(first.stdin.take());
    first.wait()?;
    Ok(())
}

// === impl Links ===

impl Links {
    /// Makes them, as good as can be. `seed` is of what is lost.
    pub fn make(seed: u64) -> anyhow::Result<Self> {
        let builder = DeviceBuilder::new().name(INTERFACE).layer(Layer::L3);
        let device = builder.ipv4(HERE, 16, None).build_sync();
        let device = device.context("making an interface: is /dev/net/tun there?")?;
        device.set_nonblocking(true)?;
        // Who listens on the loopback is reached through it.
        let through = format!("/proc/sys/net/ipv4/conf/{INTERFACE}/route_localnet");
        std::fs::write(&through, "1").with_context(|| format!("writing {through}"))?;
        let table = Arc::new(Mutex::new(Table::default()));
        let shared = Arc::clone(&table);
        let thread = std::thread::Builder::new()
            .name(INTERFACE.to_owned())
            .spawn(move || carry(&device, &shared, StdRng::seed_from_u64(seed)))?;
        Ok(Self {
            table,
            thread: Some(thread),
        })
    }

    /// Where one member finds another, both counted from 1.
    pub fn place(from: u32, to: u32) -> Ipv4Addr {
        let [first, second] = NETWORK;
        Ipv4Addr::new(first, second, byte(from), byte(to))
    }

    /// From now on the link is like that, one way.
    pub fn set(&self, (from, to): (u32, u32), quality: Quality) {
        lock(&self.table).link((byte(from), byte(to))).0 = quality;
    }

    /// Cuts a link one way, or heals it; it stays as long and as lossy.
    pub fn cut(&self, (from, to): (u32, u32), cut: bool) {
        lock(&self.table).link((byte(from), byte(to))).0.cut = cut;
    }

    /// What has become of packets that way so far.
    pub fn count(&self, (from, to): (u32, u32)) -> Count {
        lock(&self.table).link((byte(from), byte(to))).1
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        lock(&self.table).closed = true;
        if let Some(thread) = self.thread.take() {
            // What went wrong there was told there.
            let _ = thread.join();
        }
    }
}

impl Table {
    fn link(&mut self, link: (u8, u8)) -> &mut (Quality, Count) {
        self.links.entry(link).or_default()
    }

    /// How long a packet is under way; `None`: for ever.
    fn draw(&mut self, link: (u8, u8), random: &mut StdRng) -> Option<Duration> {
        let (quality, count) = self.link(link);
        if quality.cut || (quality.loss > 0.0 && random.random_bool(quality.loss)) {
            count.lost += 1;
            return None;
        }
        count.passed += 1;
        Some(quality.delay)
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn byte(member: u32) -> u8 {
    u8::try_from(member).expect("a few members")
}

fn carry(device: &SyncDevice, table: &Mutex<Table>, mut random: StdRng) {
    let mut under_way: BinaryHeap<Reverse<Due>> = BinaryHeap::new();
    let mut number = 0;
    let mut buffer = [0; PACKET];
    loop {
        let now = Instant::now();
        let next = under_way.peek();
        let wait = next.map_or(LOOK, |Reverse(next)| next.at.saturating_duration_since(now));
        let wait = Timespec::try_from(wait.min(LOOK)).expect("a short time");
        // Whatever ends the wait, it is looked at what there is.
        let _ = poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&wait));
        let now = Instant::now();
        let mut table = lock(table);
        if table.closed {
            return;
        }
        while let Ok(length) = device.recv(&mut buffer) {
            let packet = &mut buffer[..length];
            let Some(link) = turn(packet) else {
                continue;
            };
            if under_way.len() < ROOM
                && let Some(delay) = table.draw(link, &mut random)
            {
                number += 1;
                under_way.push(Reverse(Due {
                    at: now + delay,
                    number,
                    packet: packet.to_vec(),
                }));
            }
        }
        drop(table);
        while under_way.peek().is_some_and(|Reverse(due)| due.at <= now)
            && let Some(Reverse(due)) = under_way.pop()
        {
            // A full queue loses packets, as any.
            let _ = device.send(&due.packet);
        }
    }
}

/// Readdresses a packet so that it comes to whom it is for as if from whom it is of: sender and receiver.
/// `None`: it is no packet of theirs.
fn turn(packet: &mut [u8]) -> Option<(u8, u8)> {
    const TCP: u8 = 6;
    let header = usize::from(packet.first()? & 0xf) * 4;
    if packet[0] >> 4 != 4 || packet.len() < header + 20 || header < 20 || packet[9] != TCP {
        return None;
    }
    let old: [u8; 8] = packet[12..20].try_into().expect("eight bytes");
    let [.., first, second, from, to] = old;
    if [first, second] != NETWORK || from == 0 || to == 0 {
        return None;
    }
    // A listener is on the loopback, and who has dialled is here.
    let receiver = if old[..4] == HERE.octets() {
        Ipv4Addr::LOCALHOST
    } else {
        HERE
    };
    let mut new = [first, second, to, from, 0, 0, 0, 0];
    new[4..].copy_from_slice(&receiver.octets());
    packet[12..20].copy_from_slice(&new);
    for at in [10, header + 16] {
        let sum = u16::from_be_bytes([packet[at], packet[at + 1]]);
        packet[at..at + 2].copy_from_slice(&adjusted(sum, &old, &new).to_be_bytes());
    }
    Some((from, to))
}

/// The checksum of something in which `old` has become `new` (RFC 1624).
fn adjusted(sum: u16, old: &[u8], new: &[u8]) -> u16 {
    let words = |bytes: &[u8], flip: u16| -> u32 {
        let words = bytes.chunks_exact(2);
        let words = words.map(|it| u16::from_be_bytes([it[0], it[1]]) ^ flip);
        words.map(u32::from).sum()
    };
    let mut total = u32::from(!sum) + words(old, u16::MAX) + words(new, 0);
    while total > u32::from(u16::MAX) {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u16 {
        adjusted(u16::MAX, &[], bytes)
    }

    #[test]
    fn a_packet_is_turned_and_its_checksums_are_right() {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[12..16].copy_from_slice(&HERE.octets());
        packet[16..20].copy_from_slice(&Links::place(1, 2).octets());
        packet[20..24].copy_from_slice(&[0x9c, 0x40, 0x1b, 0x58]);
        let checked = |packet: &[u8]| {
            let pseudo = [&packet[12..20], &[0, 6, 0, 20], &packet[20..]].concat();
            (sum(&packet[..20]), sum(&pseudo))
        };
        let (ip, tcp) = checked(&packet);
        packet[10..12].copy_from_slice(&ip.to_be_bytes());
        packet[36..38].copy_from_slice(&tcp.to_be_bytes());
        assert_eq!(checked(&packet), (0, 0));

        assert_eq!(turn(&mut packet), Some((1, 2)));
        assert_eq!(packet[12..16], Links::place(2, 1).octets());
        assert_eq!(packet[16..20], Ipv4Addr::LOCALHOST.octets());
        assert_eq!(checked(&packet), (0, 0));

        // What answers it.
        packet[12..16].copy_from_slice(&Ipv4Addr::LOCALHOST.octets());
        packet[16..20].copy_from_slice(&Links::place(2, 1).octets());
        assert_eq!(turn(&mut packet), Some((2, 1)));
        assert_eq!(packet[12..16], Links::place(1, 2).octets());
        assert_eq!(packet[16..20], HERE.octets());
    }

    #[test]
    fn what_is_cut_is_lost_one_way_and_counted() {
        let mut table = Table::default();
        let mut random = StdRng::seed_from_u64(1);
        table.link((1, 2)).0.cut = true;
        let delay = Duration::from_millis(5);
        table.link((2, 1)).0 = Quality {
            delay,
            loss: 0.5,
            cut: false,
        };
        for _ in 0..100 {
            assert_eq!(table.draw((1, 2), &mut random), None);
            let back = table.draw((2, 1), &mut random);
            assert!(back.is_none() || back == Some(delay));
        }
        let lost = |table: &mut Table, link| table.link(link).1.lost;
        assert_eq!(lost(&mut table, (1, 2)), 100);
        assert!((20..80).contains(&lost(&mut table, (2, 1))));
    }
}
