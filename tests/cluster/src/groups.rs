//! Control groups. Comes in: a run and its nodes. Goes out: a group for each node, which the kubelet
//! makes its own below, and their end: alone of all that a machine has, the kernel keeps them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::network::{Plan, interface};

const ROOT: &str = "/sys/fs/cgroup";
/// How long the kernel may take to see that a group is empty.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where groups can be: one tree (version 2), or one for each controller (version 1).
fn trees() -> Vec<PathBuf> {
    if is_unified() {
        return vec![ROOT.into()];
    }
    folders(Path::new(ROOT))
}

fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    // Some controllers have a second name, which is a link.
    paths
        .filter(|path| path.is_dir() && !path.is_symlink())
        .collect()
}

/// The groups right below the root of every tree.
pub(crate) fn top() -> Vec<PathBuf> {
    trees().iter().flat_map(|tree| folders(tree)).collect()
}

/// The group of a node, from the root of each tree.
pub(crate) fn of_node(plan: Plan, node: &str) -> PathBuf {
    Path::new("/").join(interface(plan.slot)).join(node)
}

/// Makes the group of a node, which must be there before its kubelet is.
pub(crate) fn make(plan: Plan, node: &str) -> Result<()> {
    let group = of_node(plan, node);
    let below = group.strip_prefix("/").unwrap_or(&group);
    for tree in trees() {
        let path = tree.join(below);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        favour(&tree.join(interface(plan.slot)));
    }
    if is_unified() {
        // A group has the controllers that the one above hands down, from the root on.
        for above in below.ancestors().collect::<Vec<_>>().into_iter().rev() {
            hand_down(&Path::new(ROOT).join(above))?;
        }
    }
    Ok(())
}

/// What pods ask for is small, and on a machine of their own enough: here they must not starve beside
/// whatever else the machine does. Trees of other controllers do not know of it.
fn favour(group: &Path) {
    for (file, weight) in [("cpu.shares", "16384"), ("cpu.weight", "1600")] {
        let file = group.join(file);
        if file.exists() {
            let _ = fs::write(file, weight);
        }
    }
}

fn hand_down(group: &Path) -> Result<()> {
    let controllers = fs::read_to_string(group.join("cgroup.controllers"))?;
    let all: Vec<String> = controllers
        .split_whitespace()
        .map(|controller| format!("+{controller}"))
        .collect();
    fs::write(group.join("cgroup.subtree_control"), all.join(" "))
        .with_context(|| format!("controllers of {}", group.display()))
}

/// Removes the group of a node whose processes have ended.
pub(crate) fn remove_node(plan: Plan, node: &str) -> Result<()> {
    let group = of_node(plan, node);
    let below = group.strip_prefix("/").unwrap_or(&group);
    remove_all(trees().iter().map(|tree| tree.join(below)))
}

/// Removes all groups of a run whose processes have ended.
pub(crate) fn remove(plan: Plan) -> Result<()> {
    remove_all(trees().iter().map(|tree| tree.join(interface(plan.slot))))
}

fn remove_all(groups: impl Iterator<Item = PathBuf>) -> Result<()> {
    let began = Instant::now();
    for group in groups.filter(|group| group.exists()) {
        while let Err(error) = remove_tree(&group) {
            if began.elapsed() > PATIENCE {
                return Err(error).with_context(|| format!("removing {}", group.display()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// Removes the groups of runs that were killed: their interface is gone. What is busy is left to
/// the next.
pub(crate) fn sweep() {
    for group in top() {
        let name = group.file_name().unwrap_or_default().to_string_lossy();
        let slot = name.strip_prefix("synod-").unwrap_or_default();
        let ours = slot.parse::<u8>().is_ok();
        if ours && !Path::new("/sys/class/net").join(&*name).exists() {
            let _ = remove_tree(&group);
        }
    }
}

/// Groups are removed from the innermost; their files go by themselves.
fn remove_tree(group: &Path) -> io::Result<()> {
    for below in folders(group) {
        remove_tree(&below)?;
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
