//! Whole groups in one thread, under virtual time.
