//! Volumes on the disks of nodes. Comes in: how many. Goes out: objects that claims are bound to. It
//! calls kubectl.

use std::fs;

use anyhow::Result;
use serde_json::json;

use crate::Cluster;

impl Cluster {
    /// Makes volumes on every node, so many on each, that claims of the default class take: nobody
    /// provisions more. `mode` is how they may be mounted, such as `ReadWriteOncePod`: a volume of this
    /// sort knows one only. Their data is the node's, and stays when it crashes.
    pub async fn make_volumes(&self, each: u8, mode: &str) -> Result<()> {
        let made = self.made()?;
        let mut objects = vec![json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "local", "annotations": {
                "storageclass.kubernetes.io/is-default-class": "true",
            }},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        })];
        for node in 1..=made.nodes.len() as u8 {
            let name = self.node_name(node);
            for number in 1..=each {
                let place = format!("volumes/{number}");
                fs::create_dir_all(made.node(node)?.folder().join("lib").join(&place))?;
                objects.push(json!({
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": format!("{name}-{number}")},
                    "spec": {
                        "capacity": {"storage": "20Gi"},
                        "accessModes": [mode],
                        "persistentVolumeReclaimPolicy": "Retain",
                        "storageClassName": "local",
                        "local": {"path": format!("/var/lib/{place}")},
                        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{
                            "key": "kubernetes.io/hostname", "operator": "In", "values": [name],
                        }]}]}},
                    },
                }));
            }
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.kubectl_with(["apply", "--filename=-"], &list.to_string())
            .await?;
        Ok(())
    }
}
