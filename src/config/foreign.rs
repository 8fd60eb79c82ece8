//! What Teleport's tbot knows and this one does not: each has a sentence of its own, so that nobody
//! looks for a typing error in a configuration that was right there.

use super::quoted;

const ELSEWHERE: &str = "is a key of a service of type ssh-multiplexer; write it there";
const CLUSTER: &str = "needs a Teleport cluster, which tbot-rs does without; remove it";
const SYMLINKS: &str = "is not a choice here; remove it: tbot-rs always refuses a symbolic link \
    that another user owns";
const ACCESS: &str = "is not in tbot-rs; remove it: the destination is its owner's alone, and \
    \"allowed_uids\" of the service lets other users connect";

/// How the original joins a cluster.
const JOIN_METHODS: [&str; 16] = [
    "azure",
    "azure_devops",
    "bitbucket",
    "bound_keypair",
    "circleci",
    "ec2",
    "env0",
    "gcp",
    "github",
    "gitlab",
    "iam",
    "kubernetes",
    "oracle",
    "spacelift",
    "terraform_cloud",
    "token",
];

/// Keys of the original's configuration, and why they are an error.
const KEYS: [(&str, &str); 13] = [
    ("proxy_templates_path", ELSEWHERE),
    ("proxy_templates", ELSEWHERE),
    ("clusters", ELSEWHERE),
    ("auth_server", CLUSTER),
    ("fips", CLUSTER),
    ("insecure", CLUSTER),
    ("relay_server", CLUSTER),
    ("join_method", CLUSTER),
    ("token", CLUSTER),
    (
        "certificate_ttl",
        "is named \"credential_ttl\" in version v2",
    ),
    ("symlinks", SYMLINKS),
    ("acls", ACCESS),
    ("readers", ACCESS),
];

/// Service types of the original, all of which get what they serve from a cluster.
const SERVICES: [&str; 20] = [
    "application",
    "application-proxy",
    "application-tunnel",
    "client-credential",
    "database",
    "database-tunnel",
    "kubernetes",
    "kubernetes/argo-cd",
    "kubernetes/v2",
    "legacy",
    "noop",
    "spiffe-svid",
    "spiffe-workload-api",
    "ssh_host",
    "unstable-client-credential",
    "workload-identity-api",
    "workload-identity-aws-roles-anywhere",
    "workload-identity-aws-ra",
    "workload-identity-jwt",
    "workload-identity-x509",
];

/// Why a key of the original is an error here.
pub(super) fn key(key: &str) -> Option<&'static str> {
    let (_, why) = KEYS.iter().find(|(name, _)| *name == key)?;
    Some(why)
}

/// Why a join method of the original is an error here.
pub(super) fn join_method(method: &str) -> Option<String> {
    JOIN_METHODS.contains(&method).then(|| {
        format!(
            "{} needs a Teleport cluster, which tbot-rs does without (allowed: ssh-ca, command, \
             key-file, none)",
            quoted(method)
        )
    })
}

/// Why a service type of the original is an error here.
pub(crate) fn service(kind: &str) -> Option<String> {
    SERVICES.contains(&kind).then(|| {
        format!(
            "{} needs a Teleport cluster, which tbot-rs does without; remove it \
             (tbot-rs serves: identity, ssh-multiplexer)",
            quoted(kind)
        )
    })
}
