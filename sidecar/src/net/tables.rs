//! Who listens and who is connected, told by the kernel's tables of this network namespace.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;

/// The kernel's tables of this network namespace, and whether they hold addresses of version 6.
const TABLES: [(&str, bool); 2] = [("/proc/net/tcp", false), ("/proc/net/tcp6", true)];
/// State of a listening socket in them.
const LISTEN: &str = "0A";

/// The sockets that take connections to this address: each by a number that no other ever has.
pub(crate) fn listening(address: SocketAddr) -> io::Result<Vec<NonZeroU64>> {
    let mut inodes = Vec::new();
    read_each(|table, v6| collect_listening(table, v6, address, &mut inodes))?;
    Ok(inodes)
}

/// The kernel lists listening sockets first, so the many connections after them are not read.
fn collect_listening(
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

/// Hands each table to `read`, and whether it holds addresses of version 6.
fn read_each(mut read: impl FnMut(BufReader<File>, bool) -> io::Result<()>) -> io::Result<()> {
    for (file, v6) in TABLES {
        match File::open(file) {
            Ok(file) => read(BufReader::new(file), v6)?,
            // A kernel without IPv6 has no such file.
            Err(error) if v6 && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
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

/// Addresses outside that have a connection to this port.
pub(crate) fn connected(port: u16) -> io::Result<BTreeSet<IpAddr>> {
    let mut found = BTreeSet::new();
    read_each(|table, v6| collect_connected(table, v6, port, &mut found))?;
    Ok(found)
}

fn collect_connected(
    table: impl BufRead,
    v6: bool,
    port: u16,
    found: &mut BTreeSet<IpAddr>,
) -> io::Result<()> {
    for line in table.lines().skip(1) {
        let line = line?;
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (Some(local), Some(remote), Some(state)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // Not yet connected (SYN_SENT, SYN_RECV), never connected (LISTEN), or not any more (CLOSE).
        if ["02", "03", "07", "0A"].contains(&state) {
            continue;
        }
        let (Some(local), Some(remote)) = (parse_address(local, v6), parse_address(remote, v6))
        else {
            continue;
        };
        let (at, from) = (local.ip().to_canonical(), remote.ip().to_canonical());
        // The pod's own address stands on both sides when one of its containers uses it.
        if local.port() == port && !from.is_loopback() && from != at {
            found.insert(from);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

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
        collect_listening(table.as_bytes(), false, target, &mut found).unwrap();
        assert_eq!(found, [NonZeroU64::new(77).unwrap()]);
    }

    /// As the kernel writes it on a little-endian machine; 8080 is 1F90.
    fn found(lines: &[&str]) -> Vec<String> {
        let table = format!("head\n{}", lines.join("\n"));
        let mut found = BTreeSet::new();
        collect_connected(table.as_bytes(), false, 8080, &mut found).expect("read");
        found.iter().map(ToString::to_string).collect()
    }

    fn address(text: &str) -> String {
        let address: SocketAddr = text.parse().expect("an address");
        let IpAddr::V4(ip) = address.ip() else {
            panic!("version 4")
        };
        let word = u32::from_ne_bytes(ip.octets());
        format!("{word:08X}:{:04X}", address.port())
    }

    fn line(local: &str, remote: &str, state: &str) -> String {
        format!(
            "1: {} {} {state} 0:0 0:0 0 0 0 1 1",
            address(local),
            address(remote)
        )
    }

    #[test]
    fn a_connection_from_outside_to_the_apps_port_is_seen_also_just_after_its_end() {
        for state in ["01", "06", "08"] {
            let line = line("10.0.0.5:8080", "10.0.0.9:40000", state);
            assert_eq!(found(&[&line]), ["10.0.0.9"], "{state}");
        }
    }

    #[test]
    fn an_app_that_listens_on_both_versions_is_looked_at_too() {
        let hex = |address: &str| {
            let address: SocketAddr = address.parse().expect("an address");
            let IpAddr::V6(ip) = address.ip() else {
                panic!("version 6")
            };
            let octets = ip.octets();
            let words = octets.chunks_exact(4);
            let words = words.map(|it| u32::from_ne_bytes(it.try_into().expect("four")));
            let words: Vec<String> = words.map(|it| format!("{it:08X}")).collect();
            format!("{}:{:04X}", words.concat(), address.port())
        };
        let at = |local: &str, remote: &str| {
            let table = format!("head\n1: {} {} 01 0:0", hex(local), hex(remote));
            let mut found = BTreeSet::new();
            collect_connected(table.as_bytes(), true, 8080, &mut found).expect("read");
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let own = "[::ffff:10.0.0.5]:8080";
        assert_eq!(at(own, "[::ffff:10.0.0.9]:40000"), ["10.0.0.9"]);
        assert_eq!(at("[fd00::5]:8080", "[fd00::9]:40000"), ["fd00::9"]);
        assert!(at("[::ffff:127.0.0.1]:8080", "[::ffff:127.0.0.1]:4000").is_empty());
        assert!(at(own, "[::ffff:10.0.0.5]:40000").is_empty());
    }

    #[test]
    fn what_stays_in_the_pod_or_goes_elsewhere_is_not_meant() {
        let lines = [
            line("127.0.0.1:8080", "127.0.0.1:40000", "01"),
            line("10.0.0.5:8080", "10.0.0.5:40000", "01"),
            line("10.0.0.5:7480", "10.0.0.9:40000", "01"),
            line("10.0.0.5:40000", "10.0.0.9:8080", "01"),
            line("0.0.0.0:8080", "0.0.0.0:0", "0A"),
            line("10.0.0.5:8080", "10.0.0.9:40000", "03"),
            "2: nonsense".to_owned(),
        ];
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        assert_eq!(found(&lines), Vec::<String>::new());
    }

    #[tokio::test]
    async fn connections_of_this_machine_to_itself_are_its_own() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("bound");
        let address = listener.local_addr().expect("address");
        let _client = tokio::net::TcpStream::connect(address)
            .await
            .expect("connected");
        let _server = listener.accept().await.expect("accepted");
        assert_eq!(connected(address.port()).expect("read"), BTreeSet::new());
    }
}
