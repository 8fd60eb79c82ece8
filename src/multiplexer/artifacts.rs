//! The files clients read: `ssh_config` and `known_hosts`.

use std::fmt::Write as _;
use std::path::Path;

/// What goes into the files of one multiplexer.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// Where it serves; absolute.
    pub destination: std::path::PathBuf,
    /// The cluster's name; `None`: the one cluster there is, for every host.
    pub cluster: Option<String>,
    /// The host of the bastion it is reached by, which goes by the same authorities.
    pub proxy_host: Option<String>,
    /// The words of the ProxyCommand before socket and target.
    pub proxy_command: Vec<String>,
    /// Public keys of authorities whose certificates of hosts are good.
    pub host_ca: Vec<String>,
    /// Lines with a host and its key.
    pub known_hosts: Vec<String>,
    /// Whether there is an agent, at `agent.sock`.
    pub agent: bool,
}

impl Artifacts {
    /// The content of `ssh_config` (ssh_config(5)), to be used with `ssh -F` or by `Include`.
    ///
    /// It names no `UserKnownHostsFile` as long as `known_hosts` is empty: ssh would write the keys a user
    /// accepts into ours, to be lost. Nor a `Port`: ssh's own default is right, and a
    /// value here would beat those behind an `Include`.
    pub fn ssh_config(&self) -> String {
        let pattern = self.pattern();
        let target = match &self.cluster {
            Some(cluster) => format!("%h:%p|{cluster}"),
            None => "%h:%p".to_owned(),
        };
        let socket = self.destination.join("v1.sock");
        let mut command: Vec<String> = self
            .proxy_command
            .iter()
            .map(|word| shell_word(word))
            .collect();
        command.push(shell_word(&socket.to_string_lossy()));
        // The target's tokens are for ssh to expand.
        command.push(format!("'{target}'"));
        let mut text = String::from("# Begin: written by tbot, changes are overwritten\n");
        let _ = write!(
            text,
            "Host {pattern}\n    ProxyCommand {command}\n    ProxyUseFdpass yes\n",
            command = command.join(" "),
        );
        self.add_known_hosts(&mut text);
        if self.agent {
            let socket = self.quoted(Path::new("agent.sock"));
            let _ = write!(text, "    IdentityAgent {socket}\n    IdentityFile none\n");
        }
        text.push_str("# End: written by tbot\n");
        text
    }

    /// The same for clients that use a key file, and its certificate if there is one, and reach hosts by
    /// themselves.
    #[cfg(feature = "cli")]
    pub fn ssh_config_of_files(&self, key: &Path, certificate: Option<&Path>) -> String {
        let pattern = self.pattern();
        let mut text = String::from("# Begin: written by tbot, changes are overwritten\n");
        let _ = write!(
            text,
            "Host {pattern}\n    IdentityFile {}\n",
            self.quoted(key)
        );
        if let Some(certificate) = certificate {
            let _ = writeln!(text, "    CertificateFile {}", self.quoted(certificate));
        }
        text.push_str("    IdentitiesOnly yes\n    IdentityAgent none\n");
        self.add_known_hosts(&mut text);
        text.push_str("# End: written by tbot\n");
        text
    }

    fn pattern(&self) -> String {
        match &self.cluster {
            Some(cluster) => format!("*.{cluster}"),
            None => "*".to_owned(),
        }
    }

    fn add_known_hosts(&self, text: &mut String) {
        if self.knows_hosts() {
            // Who is not in it is a stranger: nothing is to be asked, and nothing written.
            let file = self.quoted(Path::new("known_hosts"));
            let _ = write!(
                text,
                "    UserKnownHostsFile {file}\n    StrictHostKeyChecking yes\n"
            );
        }
    }

    /// The content of `known_hosts` (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"). Without an authority or a
    /// host it holds a comment.
    pub fn known_hosts(&self) -> String {
        if !self.knows_hosts() {
            return "# Written by tbot: no host authorities are configured.\n".to_owned();
        }
        let mut text = String::from("# Written by tbot, changes are overwritten\n");
        let hosts = match &self.cluster {
            Some(cluster) => {
                let proxy = self.proxy_host.as_ref().filter(|host| *host != cluster);
                let proxy = proxy.map(|host| format!("{host},"));
                format!("{}{cluster},*.{cluster}", proxy.unwrap_or_default())
            }
            None => "*".to_owned(),
        };
        for key in &self.host_ca {
            let _ = writeln!(text, "@cert-authority {hosts} {key}");
        }
        for line in &self.known_hosts {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    fn knows_hosts(&self) -> bool {
        !self.host_ca.is_empty() || !self.known_hosts.is_empty()
    }

    /// A file of the destination as ssh_config(5) has it: in quotes, and `%` begins a token.
    fn quoted(&self, name: &Path) -> String {
        let path = self.destination.join(name);
        let path = path.to_string_lossy().replace('%', "%%");
        format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// A word for the shell that runs a ProxyCommand, with ssh's own tokens made literal.
fn shell_word(word: &str) -> String {
    format!("'{}'", word.replace('\'', r#"'"'"'"#).replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifacts(destination: &str, cluster: Option<&str>) -> Artifacts {
        Artifacts {
            destination: destination.into(),
            cluster: cluster.map(Into::into),
            proxy_host: None,
            proxy_command: vec![
                "/usr/bin/tbot".into(),
                "ssh-multiplexer-proxy-command".into(),
            ],
            host_ca: Vec::new(),
            known_hosts: Vec::new(),
            agent: false,
        }
    }

    #[test]
    fn every_host_goes_through_where_no_cluster_is_named() {
        let text = artifacts("/opt/id", None).ssh_config();
        assert!(text.contains("\nHost *\n"), "{text}");
        assert!(
            text.contains("ProxyCommand '/usr/bin/tbot' 'ssh-multiplexer-proxy-command' '/opt/id/v1.sock' '%h:%p'\n"),
            "{text}"
        );
    }

    #[test]
    fn a_named_cluster_takes_its_own_hosts() {
        let text = artifacts("/opt/id", Some("prod")).ssh_config();
        assert!(
            text.contains("\nHost *.prod\n") && text.contains(" '%h:%p|prod'\n"),
            "{text}"
        );
    }

    #[test]
    fn odd_paths_are_quoted_for_shell_and_ssh() {
        let text = artifacts("/a b/it's 5%", None).ssh_config();
        assert!(text.contains(r#"'/a b/it'"'"'s 5%%/v1.sock'"#), "{text}");
    }
}
