//! A disk that loses and damages what was written, for tests and the simulator.
