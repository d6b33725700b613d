//! Which process is the app (rule A4): told by the sockets that listen at its address.

use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;

/// One start of the app. Derived from the inodes of its listening sockets, which the kernel does
/// not use twice while the machine is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(pub NonZeroU64);

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Looks for the sockets that take connections to `address` in this network namespace. `None`:
/// nobody listens. An error says nothing about the app.
pub fn look(address: SocketAddr) -> io::Result<Option<Instance>> {
    let mut inodes = Vec::new();
    for (file, v6) in [("/proc/net/tcp", false), ("/proc/net/tcp6", true)] {
        match std::fs::File::open(file) {
            Ok(file) => collect(BufReader::new(file), v6, address, &mut inodes)?,
            // A kernel without IPv6 has no such file.
            Err(error) if v6 && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(identify(inodes))
}

/// The kernel lists listening sockets first, so the many connections after them are not read.
fn collect(
    table: impl BufRead,
    v6: bool,
    address: SocketAddr,
    inodes: &mut Vec<u64>,
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
fn parse_address(text: &str, v6: bool) -> Option<SocketAddr> {
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

fn identify(mut inodes: Vec<u64>) -> Option<Instance> {
    inodes.sort_unstable();
    inodes.dedup();
    let identity = match inodes.as_slice() {
        [] => return None,
        [one] => *one,
        // Several sockets on one port, one per worker: each of them counts.
        several => {
            let mut hasher = blake3::Hasher::new();
            for inode in several {
                hasher.update(&inode.to_le_bytes());
            }
            let mut first = [0; 8];
            first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
            u64::from_le_bytes(first)
        }
    };
    Some(Instance(
        NonZeroU64::new(identity).unwrap_or(NonZeroU64::MAX),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listener_has_an_identity_until_it_is_closed_and_the_next_has_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let first = look(address).unwrap().expect("it listens");
        assert_eq!(look(address).unwrap(), Some(first));
        drop(listener);
        assert_eq!(look(address).unwrap(), None);
        let listener = TcpListener::bind(address).unwrap();
        let second = look(address).unwrap().expect("it listens again");
        assert_ne!(first, second);
        drop(listener);
    }

    #[test]
    fn a_listener_on_every_address_takes_connections_to_the_loopback() {
        for any in ["0.0.0.0:0", "[::]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let port = listener.local_addr().unwrap().port();
            let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            assert!(look(loopback).unwrap().is_some(), "{any}");
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
        let alone = look(address).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let _server = listener.accept().unwrap();
        assert_eq!(look(address).unwrap(), alone);
    }

    #[test]
    fn what_cannot_be_parsed_is_passed_over() {
        let table = "head\n0: zz:1 x 0A\n1: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 77 1\n";
        let mut inodes = Vec::new();
        let target = "127.0.0.1:8080".parse().unwrap();
        collect(table.as_bytes(), false, target, &mut inodes).unwrap();
        assert_eq!(inodes, vec![77]);
    }

    #[test]
    fn several_listeners_are_one_identity_whatever_their_order() {
        assert_eq!(identify(vec![3, 1, 2]), identify(vec![1, 2, 3]));
        assert_ne!(identify(vec![1, 2]), identify(vec![1, 2, 3]));
        assert_eq!(identify(vec![]), None);
    }
}
