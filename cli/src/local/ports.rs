//! Which ports are free, and whether somebody listens on one.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use rand::RngExt as _;
use tokio::time::{Instant, sleep};

use crate::exit::Failure;

/// Ports below which the system wants privileges, or well-known programs live.
const LOWEST: u16 = 10_240;

/// How long the processes of a group that was killed just now may take to be gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// Refuses an address on which somebody else listens.
pub(super) async fn check_free(address: SocketAddr, member: &str) -> Result<(), Failure> {
    let end = Instant::now() + PATIENCE;
    let error = loop {
        match TcpListener::bind(address) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() != ErrorKind::AddrInUse || Instant::now() > end => {
                break error;
            }
            Err(_) => sleep(PATIENCE / 20).await,
        }
    };
    Err(Failure::usage(if error.kind() == ErrorKind::AddrInUse {
        format!(
            "port {} is taken, and {member} should listen on {address}: stop what listens there, or choose other ports with --listen",
            address.port()
        )
    } else {
        format!(
            "{member} cannot listen on {address}: {error}; choose another address with --listen"
        )
    }))
}

/// Free ports of the loopback. They lie outside the range from which the system takes ports for
/// outgoing connections: one of those could occupy a port while its process is being restarted.
pub(super) fn free(count: usize, besides: &BTreeSet<u16>) -> std::io::Result<Vec<u16>> {
    let end = outgoing_from().max(LOWEST + 1024);
    let mut taken = besides.clone();
    let mut found = Vec::with_capacity(count);
    let mut random = rand::rng();
    for _ in 0..10_000 {
        if found.len() == count {
            return Ok(found);
        }
        let port = random.random_range(LOWEST..end);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && taken.insert(port) {
            found.push(port);
        }
    }
    Err(std::io::Error::new(
        ErrorKind::AddrInUse,
        format!("no {count} free ports between {LOWEST} and {end}"),
    ))
}

fn outgoing_from() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}

/// Whether somebody listens on this port, by the kernel's own list: a connection would be seen by
/// whoever listens.
pub(super) fn somebody_listens(port: u16) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .any(|table| table.lines().any(|line| is_listener(line, port)))
}

/// A line of the table: number, local `address:port` in hex, remote, state; `0A` is listening.
fn is_listener(line: &str, port: u16) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let (Some(local), Some(state)) = (words.next(), words.nth(1)) else {
        return false;
    };
    state == "0A" && local.ends_with(&format!(":{port:04X}"))
}

/// Where a client on this machine reaches a listener.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_and_seen() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("free");
        let address = listener.local_addr().expect("bound");
        assert!(somebody_listens(address.port()));
        let refused = check_free(address, "notes-2").await.expect_err("taken");
        let text = refused.to_string();
        assert!(
            text.contains(&address.port().to_string()) && text.contains("notes-2"),
            "{text}"
        );
    }

    #[test]
    fn only_lines_of_listeners_on_the_port_count() {
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1";
        assert!(is_listener(line, 8080));
        assert!(!is_listener(line, 8081));
        assert!(!is_listener(&line.replace(" 0A ", " 01 "), 8080));
        assert!(!is_listener(
            "  sl  local_address rem_address   st tx_queue",
            8080
        ));
    }

    #[test]
    fn free_ports_are_different_and_not_the_ones_to_leave_out() {
        let besides = free(20, &BTreeSet::new())
            .expect("free")
            .into_iter()
            .collect();
        let found = free(40, &besides).expect("free");
        let unique: BTreeSet<_> = found.iter().copied().collect();
        assert_eq!(unique.len(), 40);
        assert!(unique.is_disjoint(&besides));
        assert!(unique.iter().all(|it| *it >= LOWEST));
    }
}
