//! A disk in memory that loses and damages what was written, for tests and the simulator.

mod disk;

pub use disk::{MemDisk, Survival};
