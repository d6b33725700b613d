//! Addresses and links. Comes in: how many clusters and nodes. Goes out: a flat network of nodes and
//! pods over all clusters, and links between regions that can be cut. It may call `ip` and `nft`.
//!
//! ```text
//!  this machine -- one link -- [core machine: bridge `host`, bridge `wan`]
//!                                   |                 |
//!  per cluster:               control machine (API server; router of the region)
//!                                        bridge `nodes`
//!                                   node 1 .. node N, each with its pods behind it
//! ```
//!
//! Regions reach each other only over `wan`; this machine reaches each of them over `host`, also
//! when it is cut off, to see what goes on there. All addresses of a run are in one /16, so that
//! several runs fit on one machine; the interface named after the /16 is the claim on it.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::machine::{Machine, feed};
use crate::relay;

/// Second bytes of the networks 10.x.0.0/16 that a run chooses from. Outside of what kubeadm, k3s,
/// OpenShift and Docker take unless told otherwise.
const SLOTS: std::ops::Range<u8> = 180..212;
/// How long the relay may take to make its interfaces.
const PATIENCE: Duration = Duration::from_secs(10);
/// A region's block has room for so many nodes.
pub(crate) const MOST_NODES: u8 = 7;
/// The /16 has room for so many regions.
pub(crate) const MOST_REGIONS: u8 = 15;

/// The addresses of a run: 10.`slot`.0.0/16. Regions and nodes count from one; a region has a /20.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) slot: u8,
}

// === impl Plan ===

impl Plan {
    fn address(self, third: u8, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.slot, third, last)
    }

    /// The router of a region: its API server and its name server.
    pub(crate) fn control(self, region: u8) -> Ipv4Addr {
        self.address(16 * region, 1)
    }

    pub(crate) fn node(self, region: u8, node: u8) -> Ipv4Addr {
        self.address(16 * region, 1 + node)
    }

    /// All addresses of a region.
    pub(crate) fn region(self, region: u8) -> String {
        format!("{}/20", self.address(16 * region, 0))
    }

    /// Its nodes and pods, without its Services.
    pub(crate) fn machines(self, region: u8) -> String {
        format!("{}/21", self.address(16 * region, 0))
    }

    pub(crate) fn pods(self, region: u8, node: u8) -> String {
        format!("{}/24", self.address(16 * region + node, 0))
    }

    pub(crate) fn services(self, region: u8) -> String {
        format!("{}/21", self.address(16 * region + 8, 0))
    }

    /// The Service of the API server.
    pub(crate) fn first_service(self, region: u8) -> Ipv4Addr {
        self.address(16 * region + 8, 1)
    }

    fn wan(self, region: u8) -> Ipv4Addr {
        self.address(0, region)
    }

    fn host(self, region: u8) -> Ipv4Addr {
        self.address(1, region)
    }

    /// This machine, as regions see it.
    pub(crate) fn here(self) -> Ipv4Addr {
        self.address(1, 254)
    }
}

/// The name of this machine's interface, and of the control groups.
pub(crate) fn interface(slot: u8) -> String {
    format!("synod-{slot}")
}

/// The interface of a region on `wan`. Known beforehand, so that a cut is silence, not an error.
fn wan_mac(region: u8) -> String {
    format!("02:53:59:00:00:{region:02x}")
}

/// Gives the core machine its bridges and this machine its link, in a /16 that nobody uses.
pub(crate) fn claim(core: &Machine) -> Result<Plan> {
    let pid = core.pid()?;
    let mut refused = None;
    for slot in SLOTS {
        let plan = Plan { slot };
        if in_use(plan)? {
            continue;
        }
        let (name, here) = (interface(plan.slot), plan.here());
        // Whoever makes the interface has the network: names are given once.
        let link = format!("link add {name} type veth peer name here netns {pid}\n");
        if let Err(error) = batch(&link) {
            refused = Some(error);
            continue;
        }
        batch(&format!(
            "address add {here}/24 dev {name}\nlink set {name} up\n"
        ))?;
        core.ip("link add wan type bridge\n\
             link add host type bridge\n\
             link set here master host\n\
             link set here up\n\
             link set host up\n\
             link set wan up\n")?;
        return Ok(plan);
    }
    let none = format!("no network 10.x.0.0/16 with x in {SLOTS:?} is free on this machine");
    Err(match refused {
        Some(error) => error.context(none),
        None => anyhow!(none),
    })
}

fn batch(lines: &str) -> Result<()> {
    feed(Command::new("ip").args(["-batch", "-"]), lines)
}

fn in_use(plan: Plan) -> Result<bool> {
    let output = Command::new("ip")
        .args(["-4", "route", "show", "table", "all", "root"])
        .arg(format!("10.{}.0.0/16", plan.slot))
        .output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(!output.stdout.is_empty())
}

/// Waits for an interface that the relay makes.
fn wait_for(core: &Machine, name: &str) -> Result<()> {
    let began = Instant::now();
    while let Err(error) = core.ip(&format!("link set {name} down\n")) {
        if began.elapsed() > PATIENCE {
            return Err(error).context("the relay does not make its interfaces");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Links the control machine of a region to the core, with routes to all `regions` others. When the
/// relay delays the link, it has made its interfaces.
pub(crate) fn link_region(
    plan: Plan,
    core: &Machine,
    control: &Machine,
    region: u8,
    regions: u8,
    delayed: bool,
) -> Result<()> {
    let pid = control.pid()?;
    let wan = if delayed {
        let far = relay::far(region);
        wait_for(core, &far)?;
        format!(
            "link set {far} netns {pid} name wan address {}\n",
            wan_mac(region)
        )
    } else {
        let (near, mac) = (relay::near(region), wan_mac(region));
        format!("link add {near} type veth peer name wan address {mac} netns {pid}\n")
    };
    core.ip(&format!(
        "{wan}\
         link add host{region} type veth peer name host netns {pid}\n\
         link set wan{region} master wan\n\
         link set host{region} master host\n\
         link set wan{region} up\n\
         link set host{region} up\n",
    ))?;
    let mut lines = format!(
        "address add {wan}/24 dev wan\n\
         address add {host}/24 dev host\n\
         link set wan up\n\
         link set host up\n\
         link add nodes type bridge\n\
         address add {control}/24 dev nodes\n\
         link set nodes up\n",
        wan = plan.wan(region),
        host = plan.host(region),
        control = plan.control(region),
    );
    for other in (1..=regions).filter(|other| *other != region) {
        let (to, via) = (plan.region(other), plan.wan(other));
        let _ = write!(
            lines,
            "neighbour add {via} lladdr {mac} nud permanent dev wan\n\
             route add {to} via {via} dev wan src {from}\n",
            mac = wan_mac(other),
            from = plan.control(region),
        );
    }
    control.ip(&lines)?;
    batch(&format!(
        "route add {} via {} dev {}\n",
        plan.region(region),
        plan.host(region),
        interface(plan.slot)
    ))
}

/// Links a node to the router of its region, and gives it the routes to the others' pods.
pub(crate) fn link_node(
    plan: Plan,
    control: &Machine,
    machine: &Machine,
    region: u8,
    node: u8,
    nodes: u8,
) -> Result<()> {
    let address = plan.node(region, node);
    control.ip(&format!(
        "link add node{node} type veth peer name eth0 netns {pid}\n\
         link set node{node} master nodes\n\
         link set node{node} up\n\
         route replace {pods} via {address}\n",
        pid = machine.pid()?,
        pods = plan.pods(region, node),
    ))?;
    let mut lines = format!(
        "address add {address}/24 dev eth0\n\
         link set eth0 up\n\
         route add default via {}\n",
        plan.control(region)
    );
    for other in (1..=nodes).filter(|other| *other != node) {
        let (pods, via) = (plan.pods(region, other), plan.node(region, other));
        let _ = writeln!(lines, "route add {pods} via {via}");
    }
    machine.ip(&lines)
}

/// Takes a region off the others' network, or puts it back. This machine still reaches it.
pub(crate) fn set_wan(core: &Machine, region: u8, connected: bool) -> Result<()> {
    let state = if connected { "up" } else { "down" };
    core.ip(&format!("link set {} {state}\n", relay::near(region)))
}

/// The table that drops what comes from a region.
fn deaf_table(from: u8) -> String {
    format!("ip synod_deaf_to_{from}")
}

/// What `from` sends no longer reaches the region of `control`; the other way still works.
pub(crate) fn drop_from(plan: Plan, control: &Machine, from: u8) -> Result<()> {
    let table = deaf_table(from);
    control.nft(&format!(
        "table {table}\n\
         delete table {table}\n\
         table {table} {{\n\
           chain input {{\n\
             type filter hook prerouting priority -350\n\
             ip saddr {{ {}, {} }} drop\n\
           }}\n\
         }}\n",
        plan.region(from),
        plan.wan(from),
    ))
}

/// Ends what [`drop_from`] began.
pub(crate) fn accept_from(control: &Machine, from: u8) -> Result<()> {
    let table = deaf_table(from);
    control.nft(&format!("table {table}\ndelete table {table}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_of_a_region_do_not_overlap_and_fit_the_largest_run() {
        let plan = Plan { slot: 180 };
        assert_eq!(plan.region(1), "10.180.16.0/20");
        assert_eq!(plan.machines(1), "10.180.16.0/21");
        assert_eq!(plan.services(1), "10.180.24.0/21");
        assert_eq!(plan.pods(1, MOST_NODES), "10.180.23.0/24");
        assert_eq!(plan.region(MOST_REGIONS), "10.180.240.0/20");
    }
}
