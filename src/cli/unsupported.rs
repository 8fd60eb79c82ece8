//! Flags and commands of Teleport's tbot that are not here: each gets a sentence that says why.

const CLUSTER: &str = "needs a Teleport cluster, which tbot-rs does without; leave it out";
const VERSION_1: &str = "is of version 1; write --destination of `tbot start ssh-multiplexer`";
const NOT_YET: &str = "is not in this version of tbot-rs";

const FLAGS: [(&str, &str); 22] = [
    ("auth-server", CLUSTER),
    ("token", CLUSTER),
    ("join-method", CLUSTER),
    ("join-uri", CLUSTER),
    ("ca-pin", CLUSTER),
    ("ca-path", CLUSTER),
    ("insecure", CLUSTER),
    ("fips", CLUSTER),
    ("static-key-path", CLUSTER),
    ("registration-secret", CLUSTER),
    ("registration-secret-path", CLUSTER),
    ("initial-join-secret", CLUSTER),
    ("workload", CLUSTER),
    ("name-selector", CLUSTER),
    ("label-selector", CLUSTER),
    ("roles", CLUSTER),
    ("reader-user", CLUSTER),
    ("reader-group", CLUSTER),
    ("relay-server", CLUSTER),
    ("diag-socket-for-updater", NOT_YET),
    ("data-dir", VERSION_1),
    ("destination-dir", VERSION_1),
];

const COMMANDS: [(&str, &str); 10] = [
    ("init", CLUSTER),
    ("db", CLUSTER),
    ("proxy", CLUSTER),
    ("kube", CLUSTER),
    ("keypair", CLUSTER),
    ("tpm", CLUSTER),
    ("spiffe-inspect", CLUSTER),
    ("ssh-proxy-command", CLUSTER),
    ("copy-binaries", NOT_YET),
    ("migrate", NOT_YET),
];

/// Why the flag of this name, without dashes, is an error here.
pub(super) fn flag(name: &str) -> Option<&'static str> {
    reason(&FLAGS, name)
}

/// Why the command of this name is an error here.
pub(super) fn command(name: &str) -> Option<&'static str> {
    reason(&COMMANDS, name)
}

fn reason(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    let (_, why) = table.iter().find(|(known, _)| *known == name)?;
    Some(why)
}
