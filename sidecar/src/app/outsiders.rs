//! Who talks to the app past this sidecar: told by the connections at the app's port whose other side
//! is outside the pod. Nothing is stopped, only seen: what came that way is in no log.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::instance::{TABLES, parse_address};

/// How often the kernel's table is looked at. A connection that the app closed itself stays in it for
/// a minute.
const LOOK: Duration = Duration::from_secs(2);
/// The log names the same address at most once in this time.
const TOLD_AGAIN: Duration = Duration::from_secs(600);

/// The last one that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outsider {
    /// Its address.
    pub address: IpAddr,
    /// When it was last seen.
    pub seen: Instant,
}

// === impl Outsider ===

impl Outsider {
    /// How long ago it was last seen, in milliseconds.
    pub fn age_ms(&self) -> u64 {
        u64::try_from(self.seen.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Looks, from now on, for connections from outside to the app's port. Ends when no receiver is left.
pub fn outsiders(app: SocketAddr) -> watch::Receiver<Option<Outsider>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(look(app.port(), sender));
    receiver
}

async fn look(port: u16, sender: watch::Sender<Option<Outsider>>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = BTreeMap::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = sender.closed() => return,
        }
        // The table of a busy pod has thousands of lines.
        let connected = tokio::task::spawn_blocking(move || connected(port));
        let found = match connected.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the kernel's connections cannot be read");
                continue;
            }
            Err(_) => return,
        };
        let seen = Instant::now();
        told.retain(|_, at: &mut Instant| seen.duration_since(*at) < TOLD_AGAIN);
        for address in found {
            sender.send_replace(Some(Outsider { address, seen }));
            if told.contains_key(&address) {
                continue;
            }
            told.insert(address, seen);
            tracing::warn!(
                peer = %address,
                port,
                "somebody talks to the app past this sidecar: what is written so reaches this copy \
                 only; use the service's address"
            );
        }
    }
}

/// Addresses outside that have a connection to this port.
fn connected(port: u16) -> io::Result<BTreeSet<IpAddr>> {
    let mut found = BTreeSet::new();
    for (file, v6) in TABLES {
        match std::fs::File::open(file) {
            Ok(file) => collect(BufReader::new(file), v6, port, &mut found)?,
            // A kernel without IPv6 has no such file.
            Err(error) if v6 && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn collect(
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
    use super::*;

    /// As the kernel writes it on a little-endian machine; 8080 is 1F90.
    fn found(lines: &[&str]) -> Vec<String> {
        let table = format!("head\n{}", lines.join("\n"));
        let mut found = BTreeSet::new();
        collect(table.as_bytes(), false, 8080, &mut found).expect("read");
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
            collect(table.as_bytes(), true, 8080, &mut found).expect("read");
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
