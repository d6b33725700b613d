//! Real processes, real programs, real faults.
