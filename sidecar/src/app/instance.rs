//! Which process is the app (rule A4): told by the sockets that listen at its address.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::net;

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
        let inodes = net::listening(self.address)?;
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
}
