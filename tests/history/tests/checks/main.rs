//! The checks, on histories that are right and on histories that are not.

mod correct_histories_pass;
mod support;
mod violations_are_found;
