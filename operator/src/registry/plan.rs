//! From Secrets to registrations. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::config::Kubeconfig;

use super::{CLUSTER_LABEL, KUBECONFIG_KEY, REGION_KEY, check, check_name};

/// One cluster as it is to be.
pub(super) struct Registration {
    /// Changes with what it was made from.
    pub(super) version: String,
    /// Name of the Secret, for messages.
    pub(super) secret: String,
    /// Region and kubeconfig, or why there are none.
    pub(super) content: Result<(String, Kubeconfig), String>,
}

/// The clusters that these Secrets register, besides `local`.
pub(super) fn registrations(secrets: &[Secret], local: &str) -> BTreeMap<String, Registration> {
    let mut ordered: Vec<&Secret> = secrets.iter().collect();
    // The first one keeps a name that a later one wants too.
    ordered.sort_by_key(|it| (it.creation_timestamp().map(|it| it.0), it.name_any()));
    let mut all: BTreeMap<String, Registration> = BTreeMap::new();
    for secret in ordered {
        let Some(name) = secret.labels().get(CLUSTER_LABEL) else {
            continue;
        };
        let own = secret.name_any();
        if name == local {
            tracing::warn!(
                secret = own,
                "the Secret registers this very cluster, which needs none: delete it"
            );
            continue;
        }
        if let Some(first) = all.get_mut(name) {
            // One of two that contradict each other must not win by chance.
            let (first_name, uid) = (first.secret.clone(), secret.uid().unwrap_or_default());
            first.version = format!("{}+{uid}", first.version);
            first.content = Err(format!(
                "the Secrets {first_name} and {own} both register it: delete one of them"
            ));
            continue;
        }
        let version = format!(
            "{}/{}",
            secret.uid().unwrap_or_default(),
            secret.resource_version().unwrap_or_default()
        );
        let content = check_name(name).and_then(|()| content(secret));
        all.insert(
            name.clone(),
            Registration {
                version,
                secret: own,
                content,
            },
        );
    }
    all
}

fn content(secret: &Secret) -> Result<(String, Kubeconfig), String> {
    let text = |key: &str| {
        let bytes = secret.data.as_ref()?.get(key)?;
        std::str::from_utf8(&bytes.0).ok().map(str::trim)
    };
    let name = secret.name_any();
    let kubeconfig = text(KUBECONFIG_KEY)
        .ok_or_else(|| format!("the Secret {name} has no text under the key {KUBECONFIG_KEY}"))?;
    let kubeconfig = check(kubeconfig).map_err(|it| format!("the Secret {name}: {it}"))?;
    let region = text(REGION_KEY).unwrap_or_default();
    if region.len() > 63 || region.chars().any(char::is_control) {
        return Err(format!(
            "the Secret {name}: the region is longer than 63 characters, or has strange ones"
        ));
    }
    Ok((region.to_owned(), kubeconfig))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use kube::api::ObjectMeta;

    use super::*;

    const GOOD: &str = "{apiVersion: v1, kind: Config, current-context: x, clusters: [{name: c, cluster: {server: 'https://a'}}], users: [{name: u, user: {token: t}}], contexts: [{name: x, context: {cluster: c, user: u}}]}";

    fn secret(name: &str, cluster: &str, kubeconfig: &str) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                uid: Some(format!("uid-{name}")),
                resource_version: Some("1".to_owned()),
                labels: Some([(CLUSTER_LABEL.to_owned(), cluster.to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: Some(
                [
                    (KUBECONFIG_KEY.to_owned(), ByteString(kubeconfig.into())),
                    (REGION_KEY.to_owned(), ByteString("eu-west-1\n".into())),
                ]
                .into(),
            ),
            ..Secret::default()
        }
    }

    #[test]
    fn a_secret_registers_the_cluster_of_its_label() {
        let all = registrations(&[secret("a", "eu", GOOD)], "local");
        let (region, config) = all["eu"].content.as_ref().expect("good");
        assert_eq!(region, "eu-west-1");
        assert_eq!(config.current_context.as_deref(), Some("x"));
    }

    #[test]
    fn two_secrets_of_one_name_are_both_refused_and_named() {
        let one = registrations(&[secret("a", "eu", GOOD)], "local");
        let all = registrations(&[secret("b", "eu", GOOD), secret("a", "eu", GOOD)], "local");
        let problem = all["eu"].content.as_ref().expect_err("refused");
        assert!(problem.contains("a and b"), "{problem}");
        assert_ne!(all["eu"].version, one["eu"].version);
    }

    #[test]
    fn this_very_cluster_is_not_registered_by_a_secret() {
        assert!(registrations(&[secret("a", "local", GOOD)], "local").is_empty());
    }

    #[test]
    fn what_cannot_be_used_is_kept_with_the_reason() {
        let all = registrations(
            &[
                secret("a", "eu", "{}"),
                secret("b", "Bad_name", GOOD),
                secret("c", "us", &GOOD.replace("token: t", "tokenFile: /t")),
            ],
            "local",
        );
        let problem = |name: &str| all[name].content.as_ref().expect_err("refused").clone();
        assert!(problem("eu").contains("Secret a"));
        assert!(problem("Bad_name").contains("lower-case"));
        assert!(problem("us").contains("tokenFile"));
    }
}
