//! `synod-operator`: the control plane, as it runs in a pod.

use std::process::ExitCode;

fn main() -> ExitCode {
    synod_operator::run::main()
}
