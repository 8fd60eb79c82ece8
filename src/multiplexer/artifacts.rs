//! The files clients read: `ssh_config` and `known_hosts`. What goes into them by cluster is [`Hosts`].

mod hosts;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

pub use hosts::Hosts;

/// Whose host keys are those of one of several clusters, with its name behind it.
pub const KNOWN_HOSTS_OF: &str = "known_hosts.";

const BEGIN: &str = "# Begin: written by tbot, changes are overwritten\n";
const END: &str = "# End: written by tbot\n";

/// What goes into the files of one multiplexer.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// Where it serves; absolute.
    pub destination: PathBuf,
    /// The hosts of each cluster.
    pub hosts: Vec<Hosts>,
    /// The words of the ProxyCommand before socket and target.
    pub proxy_command: Vec<String>,
    /// Whether there is an agent, at `agent.sock`.
    pub agent: bool,
}

impl Artifacts {
    /// Every file by its name.
    pub fn files(&self) -> Vec<(String, String)> {
        let mut files = vec![
            ("ssh_config".to_owned(), self.ssh_config()),
            ("known_hosts".to_owned(), self.known_hosts()),
        ];
        if self.hosts.len() > 1 {
            let own = |hosts: &Hosts| Some((self.file_of(hosts)?, hosts.known_hosts_file()));
            files.extend(self.hosts.iter().filter_map(own));
        }
        files
    }

    /// The file that says who the hosts of the cluster at `place` are, its bastion among them; `None`: ssh goes by
    /// its own.
    pub fn known_hosts_file(&self, place: usize) -> Option<String> {
        self.file_of(&self.hosts[place])
    }

    /// Where there are several, a cluster's hosts are not to be known by another's authorities.
    fn file_of(&self, hosts: &Hosts) -> Option<String> {
        hosts.knows_hosts().then(|| match &hosts.cluster {
            Some(name) if self.hosts.len() > 1 => format!("{KNOWN_HOSTS_OF}{name}"),
            _ => "known_hosts".to_owned(),
        })
    }

    /// The content of `ssh_config` (ssh_config(5)), to be used with `ssh -F` or by `Include`: a block for each
    /// cluster.
    ///
    /// It names no `UserKnownHostsFile` for a cluster without host keys: ssh would write the keys a user
    /// accepts into ours, to be lost. Nor a `Port`: ssh's own default is right, and a
    /// value here would beat those behind an `Include`.
    pub fn ssh_config(&self) -> String {
        let mut words = self.proxy_command.clone();
        words.push(self.destination.join("v1.sock").to_string_lossy().into());
        let words: Vec<String> = words.iter().map(|word| shell_word(word)).collect();
        let words = words.join(" ");
        let mut text = String::from(BEGIN);
        for (hosts, patterns) in Hosts::in_order(&self.hosts) {
            // The target's tokens are for ssh to expand.
            let target = match &hosts.cluster {
                Some(cluster) => format!("%h:%p|{}", cluster.replace('%', "%%")),
                None => "%h:%p".to_owned(),
            };
            let _ = write!(
                text,
                "Host {patterns}\n    ProxyCommand {words} '{target}'\n    ProxyUseFdpass yes\n",
                patterns = patterns.join(" ")
            );
            self.add_known_hosts(hosts, &mut text);
            if self.agent {
                let socket = self.quoted(Path::new("agent.sock"));
                let _ = write!(text, "    IdentityAgent {socket}\n    IdentityFile none\n");
            }
        }
        text.push_str(END);
        text
    }

    /// The same for clients that use a key file, and its certificate if there is one, and reach hosts by
    /// themselves.
    #[cfg(feature = "cli")]
    pub fn ssh_config_of_files(&self, key: &Path, certificate: Option<&Path>) -> String {
        let mut text = String::from(BEGIN);
        for (hosts, patterns) in Hosts::in_order(&self.hosts) {
            let (patterns, key) = (patterns.join(" "), self.quoted(key));
            let _ = write!(text, "Host {patterns}\n    IdentityFile {key}\n");
            if let Some(certificate) = certificate {
                let _ = writeln!(text, "    CertificateFile {}", self.quoted(certificate));
            }
            text.push_str("    IdentitiesOnly yes\n    IdentityAgent none\n");
            self.add_known_hosts(hosts, &mut text);
        }
        text.push_str(END);
        text
    }

    fn add_known_hosts(&self, hosts: &Hosts, text: &mut String) {
        if let Some(file) = self.file_of(hosts) {
            // Who is not in it is a stranger: nothing is to be asked, and nothing written.
            let file = self.quoted(Path::new(&file));
            let _ = write!(
                text,
                "    UserKnownHostsFile {file}\n    StrictHostKeyChecking yes\n"
            );
        }
    }

    /// The content of `known_hosts` (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"). Without an authority or a
    /// host it holds a comment.
    pub fn known_hosts(&self) -> String {
        let lines: String = Hosts::in_order(&self.hosts)
            .iter()
            .map(|(hosts, patterns)| hosts.lines(patterns))
            .collect();
        match lines.is_empty() {
            true => "# Written by tbot: no host authorities are configured.\n".to_owned(),
            false => format!("{}{lines}", hosts::HEAD),
        }
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
    use crate::multiplexer::Cluster;

    fn artifacts(destination: &str, cluster: Option<&str>) -> Artifacts {
        let hosts = Cluster {
            name: cluster.map(Into::into),
            ..Cluster::default()
        };
        Artifacts {
            destination: destination.into(),
            hosts: vec![Hosts::of(&hosts)],
            proxy_command: vec![
                "/usr/bin/tbot".into(),
                "ssh-multiplexer-proxy-command".into(),
            ],
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
    fn each_of_several_clusters_has_its_own_host_keys() {
        let cluster = |name: &str, host_ca: &[&str]| Cluster {
            name: Some(name.into()),
            host_ca: host_ca.iter().map(|&key| key.into()).collect(),
            ..Cluster::default()
        };
        let mut all = artifacts("/id", None);
        let clusters = [
            cluster("a", &["key-a"]),
            cluster("b", &["key-b"]),
            cluster("c", &[]),
        ];
        all.hosts = clusters.iter().map(Hosts::of).collect();
        let files = all.files();
        let of = |name: &str| {
            files
                .iter()
                .find(|(file, _)| file == name)
                .map(|(_, text)| &**text)
        };
        let block = |name: &str| {
            let config = of("ssh_config").expect("it is always there");
            let (_, block) = config
                .split_once(&format!("Host *.{name}\n"))
                .expect("a block");
            block.split("Host ").next().expect("one").to_owned()
        };
        for (name, other) in [("a", "b"), ("b", "a")] {
            let file = format!("known_hosts.{name}");
            let text = of(&file).expect("it has keys");
            assert!(block(name).contains(&format!("UserKnownHostsFile \"/id/{file}\"\n")));
            assert!(
                text.contains(&format!("key-{name}")) && !text.contains(&format!("key-{other}"))
            );
        }
        assert_eq!(of("known_hosts.c"), None);
        assert!(!block("c").contains("KnownHosts"));
    }

    #[test]
    fn odd_paths_are_quoted_for_shell_and_ssh() {
        let text = artifacts("/a b/it's 5%", None).ssh_config();
        assert!(text.contains(r#"'/a b/it'"'"'s 5%%/v1.sock'"#), "{text}");
    }
}
