//! Which process is the app (rule A4): told by the sockets that listen at its address.

use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One start of the app: the inode of a socket that listened when it was first seen. The kernel uses
/// no inode of a socket twice while the machine is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(pub NonZeroU64);

/// The sockets that take connections to the app's address, and what they say about its process.
///
/// A program may have several (one per address family, or per worker) and need not open them at
/// once. As long as one that is known still listens, its process lives; none left means a new one.
#[derive(Debug)]
pub(super) struct Listeners {
    address: SocketAddr,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    instance: Option<Instance>,
    inodes: Vec<NonZeroU64>,
    partly_gone: bool,
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The kernel's tables of this network namespace, and whether they hold addresses of version 6.
pub(super) const TABLES: [(&str, bool); 2] = [("/proc/net/tcp", false), ("/proc/net/tcp6", true)];
/// State of a listening socket in them.
const LISTEN: &str = "0A";

// === impl Listeners ===

impl Listeners {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            known: Mutex::default(),
        }
    }

    /// An earlier process of ours knew the app by this instance.
    pub(super) fn recognise(&self, instance: Instance) {
        let mut known = self.known();
        known.instance = Some(instance);
        known.inodes = vec![instance.0];
    }

    /// Who listens in this network namespace; `None`: nobody. An error says nothing about the app.
    pub(super) fn look(&self) -> io::Result<Option<Instance>> {
        let inodes = listening(self.address)?;
        Ok(self.known().judge(inodes))
    }

    /// Whether, since the last time this was asked, some of the sockets went while others stayed.
    pub(super) fn partly_gone(&self) -> bool {
        std::mem::take(&mut self.known().partly_gone)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn judge(&mut self, inodes: Vec<NonZeroU64>) -> Option<Instance> {
        let first = Instance(*inodes.iter().min()?);
        let stays = self.inodes.iter().copied().find(|it| inodes.contains(it));
        match stays {
            None => {
                self.instance = Some(first);
                self.partly_gone = false;
            }
            Some(_) if self.inodes.iter().all(|it| inodes.contains(it)) => {}
            // Named anew by a socket that is left, so that a later process of ours knows it, too.
            Some(stays) => {
                self.instance = Some(Instance(stays));
                self.partly_gone = true;
            }
        }
        self.inodes = inodes;
        self.instance
    }
}

fn listening(address: SocketAddr) -> io::Result<Vec<NonZeroU64>> {
    let mut inodes = Vec::new();
    for (file, v6) in TABLES {
        match std::fs::File::open(file) {
            Ok(file) => collect(BufReader::new(file), v6, address, &mut inodes)?,
            // A kernel without IPv6 has no such file.
            Err(error) if v6 && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(inodes)
}

/// The kernel lists listening sockets first, so the many connections after them are not read.
fn collect(
    table: impl BufRead,
    v6: bool,
    address: SocketAddr,
    inodes: &mut Vec<NonZeroU64>,
) -> io::Result<()> {
    for line in table.lines().skip(1) {
        let line = line?;
        let mut fields = line.split_ascii_whitespace();
        let (Some(local), Some(state)) = (fields.nth(1), fields.nth(1)) else {
            continue;
        };
        if state != LISTEN {
            break;
        }
        let inode = fields.nth(5).and_then(|inode| inode.parse().ok());
        if let (Some(inode), Some(local)) = (inode, parse_address(local, v6))
            && takes(local, address)
        {
            inodes.push(inode);
        }
    }
    Ok(())
}

/// Addresses are 32-bit words in the machine's own byte order, in hex.
pub(super) fn parse_address(text: &str, v6: bool) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if ip.len() != if v6 { 32 } else { 8 } || !ip.is_ascii() {
        return None;
    }
    let mut bytes = [0_u8; 16];
    for (word, at) in (0..ip.len()).step_by(8).enumerate() {
        let value = u32::from_str_radix(&ip[at..at + 8], 16).ok()?;
        bytes[word * 4..word * 4 + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let ip = if v6 {
        IpAddr::V6(Ipv6Addr::from(bytes))
    } else {
        IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    };
    Some(SocketAddr::new(ip, port))
}

/// Whether a connection to `target` may end at a socket that listens at `local`. A wildcard of
/// either family counts: most programs listen on `::` for both.
fn takes(local: SocketAddr, target: SocketAddr) -> bool {
    local.port() == target.port()
        && (local.ip().is_unspecified() || local.ip().to_canonical() == target.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn inodes(numbers: &[u64]) -> Vec<NonZeroU64> {
        numbers
            .iter()
            .copied()
            .filter_map(NonZeroU64::new)
            .collect()
    }

    fn instance(number: u64) -> Option<Instance> {
        NonZeroU64::new(number).map(Instance)
    }

    #[test]
    fn a_listener_has_an_identity_until_it_is_closed_and_the_next_has_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listeners = Listeners::new(address);
        let first = listeners.look().unwrap().expect("it listens");
        assert_eq!(listeners.look().unwrap(), Some(first));
        let later = Listeners::new(address);
        later.recognise(first);
        assert_eq!(later.look().unwrap(), Some(first));
        drop(listener);
        assert_eq!(listeners.look().unwrap(), None);
        let listener = TcpListener::bind(address).unwrap();
        let second = listeners.look().unwrap().expect("it listens again");
        assert_ne!(first, second);
        assert!(!listeners.partly_gone());
        drop(listener);
    }

    #[test]
    fn a_process_that_opens_another_socket_is_the_same_process() {
        let mut known = Known::default();
        assert_eq!(known.judge(inodes(&[20])), instance(20));
        assert_eq!(known.judge(inodes(&[10, 20])), instance(20));
        assert_eq!(known.judge(inodes(&[20, 10, 30])), instance(20));
        assert!(!known.partly_gone);
        let mut later = Known {
            instance: instance(20),
            inodes: inodes(&[20]),
            partly_gone: false,
        };
        assert_eq!(later.judge(inodes(&[10, 20, 30])), instance(20));
        assert!(!later.partly_gone);
        assert_eq!(known.judge(inodes(&[40, 50])), instance(40), "all are new");
        assert!(!known.partly_gone);
    }

    #[test]
    fn sockets_of_which_some_went_are_a_process_in_an_unknown_state() {
        let mut known = Known::default();
        known.judge(inodes(&[10, 20]));
        assert_eq!(known.judge(inodes(&[20, 30])), instance(20));
        assert!(known.partly_gone);
    }

    #[test]
    fn a_listener_that_nobody_sees_for_a_moment_is_still_the_same() {
        let mut known = Known::default();
        known.judge(inodes(&[20]));
        assert_eq!(known.judge(inodes(&[])), None);
        assert_eq!(known.judge(inodes(&[10, 20])), instance(20));
    }

    #[test]
    fn a_listener_on_every_address_takes_connections_to_the_loopback() {
        for any in ["0.0.0.0:0", "[::]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let port = listener.local_addr().unwrap().port();
            let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            assert_eq!(listening(loopback).unwrap().len(), 1, "{any}");
        }
    }

    #[test]
    fn a_listener_on_another_port_or_address_does_not_count() {
        let target = "127.0.0.1:8080".parse().unwrap();
        assert!(takes("127.0.0.1:8080".parse().unwrap(), target));
        assert!(!takes("127.0.0.1:8081".parse().unwrap(), target));
        assert!(!takes("127.0.0.2:8080".parse().unwrap(), target));
        assert!(takes("[::ffff:127.0.0.1]:8080".parse().unwrap(), target));
    }

    #[test]
    fn connections_are_not_listeners() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let alone = listening(address).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let _server = listener.accept().unwrap();
        assert_eq!(listening(address).unwrap(), alone);
    }

    #[test]
    fn what_cannot_be_parsed_is_passed_over() {
        let table = "head\n0: zz:1 x 0A\n1: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 77 1\n";
        let mut found = Vec::new();
        let target = "127.0.0.1:8080".parse().unwrap();
        collect(table.as_bytes(), false, target, &mut found).unwrap();
        assert_eq!(found, inodes(&[77]));
    }
}
