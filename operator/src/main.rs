//! `synod-operator`: the control plane, as it runs in a pod.

fn main() {}
