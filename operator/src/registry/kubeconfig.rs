//! Kubeconfigs with inline credentials only. What another file or program would have to give is
//! refused: the operator has neither, and running programs that a Secret names would let whoever
//! writes Secrets run anything here.

use kube::config::{AuthInfo, Cluster, Kubeconfig};

/// Why a kubeconfig is refused. It never holds a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read.
    #[error("the kubeconfig is not one: it needs clusters, users, contexts and a current-context")]
    Syntax,
    /// A part of it is missing.
    #[error("the kubeconfig has no {0}")]
    Missing(&'static str),
    /// It holds what is not allowed.
    #[error("the kubeconfig uses {what}: {instead}")]
    Forbidden {
        /// The field.
        what: &'static str,
        /// What to write instead.
        instead: &'static str,
    },
}

const INLINE_CA: &str = "put the certificate itself into certificate-authority-data";
const INLINE_USER: &str = "put a token or client-certificate-data and client-key-data into it, as `synod cluster join` does";

/// Reads a kubeconfig and refuses what may not be in it, in whichever context that is.
pub fn check(text: &str) -> Result<Kubeconfig, Refusal> {
    let config = Kubeconfig::from_yaml(text).map_err(|_| Refusal::Syntax)?;
    for named in &config.clusters {
        cluster(named.cluster.as_ref().ok_or(Refusal::Missing("cluster"))?)?;
    }
    for named in &config.auth_infos {
        user(named.auth_info.as_ref().ok_or(Refusal::Missing("user"))?)?;
    }
    let current = config
        .current_context
        .as_ref()
        .ok_or(Refusal::Missing("current-context"))?;
    let context = config
        .contexts
        .iter()
        .find(|it| it.name == *current)
        .and_then(|it| it.context.as_ref())
        .ok_or(Refusal::Missing("context of the name in current-context"))?;
    if !config.clusters.iter().any(|it| it.name == context.cluster) {
        return Err(Refusal::Missing("cluster of the name in the context"));
    }
    let users = &config.auth_infos;
    if !users
        .iter()
        .any(|it| Some(&it.name) == context.user.as_ref())
    {
        return Err(Refusal::Missing("user of the name in the context"));
    }
    Ok(config)
}

fn cluster(cluster: &Cluster) -> Result<(), Refusal> {
    let forbid = |what, instead| Err(Refusal::Forbidden { what, instead });
    if cluster.insecure_skip_tls_verify == Some(true) {
        return forbid("insecure-skip-tls-verify", INLINE_CA);
    }
    if cluster.certificate_authority.is_some() {
        return forbid("a file (certificate-authority)", INLINE_CA);
    }
    let server = cluster
        .server
        .as_deref()
        .ok_or(Refusal::Missing("server"))?;
    if !server.starts_with("https://") {
        return forbid("a server without TLS", "write its address as https://..");
    }
    Ok(())
}

fn user(user: &AuthInfo) -> Result<(), Refusal> {
    let forbidden = [
        (user.exec.is_some(), "a program (exec)"),
        (user.auth_provider.is_some(), "a plugin (auth-provider)"),
        (user.token_file.is_some(), "a file (tokenFile)"),
        (
            user.client_certificate.is_some(),
            "a file (client-certificate)",
        ),
        (user.client_key.is_some(), "a file (client-key)"),
        (
            user.username.is_some() || user.password.is_some(),
            "a password",
        ),
        (
            user.impersonate.is_some() || user.impersonate_groups.is_some(),
            "impersonation",
        ),
    ];
    if let Some((_, what)) = forbidden.into_iter().find(|(there, _)| *there) {
        let instead = INLINE_USER;
        return Err(Refusal::Forbidden { what, instead });
    }
    let pair = user.client_certificate_data.is_some() && user.client_key_data.is_some();
    if user.token.is_none() && !pair {
        return Err(Refusal::Missing(
            "credentials in its user: a token, or client-certificate-data with client-key-data",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             clusters: [{{name: c, cluster: {{{cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n"
        )
    }

    const SERVER: &str = "server: 'https://a.example:6443', certificate-authority-data: YQ==";

    #[test]
    fn inline_credentials_are_taken() {
        for user in [
            "token: t",
            "client-certificate-data: YQ==, client-key-data: YQ==",
        ] {
            check(&config(SERVER, user)).expect(user);
        }
    }

    #[test]
    fn what_would_need_files_programs_or_trust_is_refused_by_name() {
        let token = "token: secret-token";
        for (cluster, user, word) in [
            (SERVER, "exec: {command: aws, apiVersion: v1}", "exec"),
            (SERVER, "tokenFile: /t", "tokenFile"),
            (
                SERVER,
                "client-certificate: /c, client-key-data: YQ==",
                "client-certificate",
            ),
            (
                SERVER,
                "client-certificate-data: YQ==, client-key: /k",
                "client-key",
            ),
            (
                SERVER,
                "auth-provider: {name: gcp, config: {}}",
                "auth-provider",
            ),
            (SERVER, "username: a, password: b", "password"),
            (SERVER, "token: t, as: admin", "impersonation"),
            (SERVER, "", "credentials"),
            (
                "server: 'https://a', insecure-skip-tls-verify: true",
                token,
                "insecure-skip-tls-verify",
            ),
            (
                "server: 'https://a', certificate-authority: /ca",
                token,
                "certificate-authority",
            ),
            ("server: 'http://a'", token, "TLS"),
            ("certificate-authority-data: YQ==", token, "server"),
        ] {
            let error = check(&config(cluster, user)).expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
            assert!(!error.contains("secret-token"), "{error}");
        }
    }

    #[test]
    fn a_context_that_leads_nowhere_is_refused() {
        let good = config(SERVER, "token: t");
        for (from, to) in [
            ("current-context: x", "current-context: y"),
            ("current-context: x\n", ""),
            ("{cluster: c, user: u}", "{cluster: d, user: u}"),
            ("{cluster: c, user: u}", "{cluster: c, user: v}"),
            ("apiVersion: v1", "clusters: 3\napiVersion: v1"),
        ] {
            let text = good.replace(from, to);
            assert_ne!(text, good);
            check(&text).expect_err(&text);
        }
    }
}
