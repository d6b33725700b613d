//! Measurements next to known programs, in one run.
