//! The hosts of one cluster: the patterns they are known by, and whose keys are theirs.

use std::fmt::Write as _;

/// The first line of a known_hosts.
pub const HEAD: &str = "# Written by tbot, changes are overwritten\n";

/// What the files say of one cluster.
#[derive(Clone, Debug)]
pub struct Hosts {
    /// The cluster's name; `None`: the one cluster there is, for every host.
    pub cluster: Option<String>,
    /// The host of the bastion it is reached by, which goes by the same authorities.
    pub proxy_host: Option<String>,
    /// Patterns of its hosts, in place of those that its name makes.
    pub patterns: Vec<String>,
    /// Public keys of authorities whose certificates of hosts are good.
    pub host_ca: Vec<String>,
    /// Lines with a host and its key.
    pub known_hosts: Vec<String>,
}

impl Hosts {
    /// Those of a multiplexer's cluster.
    pub fn of(cluster: &crate::multiplexer::Cluster) -> Self {
        Self {
            cluster: cluster.known_as(),
            proxy_host: cluster.bastion.as_ref().map(|bastion| bastion.host.clone()),
            patterns: cluster.hosts.clone(),
            host_ca: cluster.host_ca.clone(),
            known_hosts: cluster.known_hosts.clone(),
        }
    }

    /// Each with its patterns as ssh is to read them, which keeps the first value it finds: longer patterns first,
    /// so that `*.eu.example.com` comes before `*.example.com`, and `*` last. Each leaves out the hosts of those
    /// before it, so that nothing is taken from two.
    pub fn in_order(all: &[Self]) -> Vec<(&Self, Vec<String>)> {
        let mut sorted: Vec<(&Self, Vec<String>)> =
            all.iter().map(|hosts| (hosts, hosts.patterns())).collect();
        let takes = |pattern: &&String| !pattern.starts_with('!');
        sorted.sort_by_key(|(_, patterns)| {
            std::cmp::Reverse(patterns.iter().filter(takes).map(String::len).min())
        });
        let mut before: Vec<String> = Vec::new();
        for (_, patterns) in &mut sorted {
            let own = patterns.clone();
            let shares = |other: &&String| own.iter().filter(takes).any(|one| overlap(one, other));
            let others = before.iter().filter(shares);
            patterns.extend(others.map(|other| format!("!{other}")));
            // What one of them leaves out itself may be another's.
            if own.iter().all(|pattern| takes(&pattern)) {
                before.extend(own);
            }
        }
        sorted
    }

    fn patterns(&self) -> Vec<String> {
        match &self.cluster {
            _ if !self.patterns.is_empty() => self.patterns.clone(),
            Some(cluster) => vec![format!("*.{cluster}")],
            None => vec!["*".to_owned()],
        }
    }

    /// Whether it is said whose keys are good.
    pub fn knows_hosts(&self) -> bool {
        !self.host_ca.is_empty() || !self.known_hosts.is_empty()
    }

    /// Its lines of a known_hosts, where its hosts are those that fit `patterns`.
    pub fn lines(&self, patterns: &[String]) -> String {
        let proxy = self.proxy_host.as_ref();
        let proxy = proxy.filter(|host| Some(*host) != self.cluster.as_ref());
        // At another port than 22 ssh looks `[host]:port` up first, which `*` takes and `!*.prod` does not leave out.
        let at_ports = patterns
            .iter()
            .filter_map(|pattern| Some(format!("![{}]:*", pattern.strip_prefix('!')?)));
        let names: Vec<String> = [proxy, self.cluster.as_ref()]
            .into_iter()
            .flatten()
            .chain(patterns)
            .cloned()
            .chain(at_ports)
            .collect();
        let mut text = String::new();
        for key in &self.host_ca {
            let _ = writeln!(text, "@cert-authority {} {key}", names.join(","));
        }
        for line in &self.known_hosts {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// A known_hosts of its own.
    pub fn known_hosts_file(&self) -> String {
        format!("{HEAD}{}", self.lines(&self.patterns()))
    }
}

/// Whether a host could fit both patterns.
fn overlap(one: &str, other: &str) -> bool {
    // Mostly their domains differ, which is quick to see where there are thousands.
    let end = |pattern| str::rsplit(pattern, ['*', '?']).next().unwrap_or(pattern);
    let (end, its) = (end(one), end(other));
    if !end.ends_with(its) && !its.ends_with(end) {
        return false;
    }
    let (one, other) = (one.as_bytes(), other.as_bytes());
    // By how many bytes of `other` are used up: whether some host fits so far.
    let mut fits = vec![false; other.len() + 1];
    fits[0] = true;
    for used in 0..other.len() {
        fits[used + 1] = fits[used] && other[used] == b'*';
    }
    for &a in one {
        let before = std::mem::replace(&mut fits, vec![false; other.len() + 1]);
        fits[0] = before[0] && a == b'*';
        for (used, &b) in other.iter().enumerate() {
            let same = a == b || [a, b].contains(&b'?');
            fits[used + 1] = match a == b'*' || b == b'*' {
                true => fits[used] || before[used + 1] || before[used],
                false => before[used] && same,
            };
        }
    }
    fits[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(name: &str, patterns: &[&str]) -> Hosts {
        Hosts {
            cluster: Some(name.into()),
            proxy_host: None,
            patterns: patterns.iter().map(|&pattern| pattern.into()).collect(),
            host_ca: vec!["key".into()],
            known_hosts: Vec::new(),
        }
    }

    #[test]
    fn patterns_overlap_where_a_host_fits_both() {
        for (one, other, expected) in [
            ("*", "*.prod", true),
            ("*.example", "*.eu.example", true),
            ("*.prod", "*.staging", false),
            ("db*", "*.prod", true),
            ("db?", "db1", true),
            ("db?", "db", false),
            ("db", "db", true),
            ("db", "web", false),
            ("*a*", "*b*", true),
            ("*a", "b*b", false),
            ("*.a?", "*.ab", true),
            ("*.a?b", "*.b", true),
            ("a*", "b*", false),
            ("*", "*", true),
        ] {
            assert_eq!(overlap(one, other), expected, "{one} {other}");
            assert_eq!(overlap(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn the_longer_pattern_has_the_host_wherever_it_stands() {
        let all = [
            hosts("all", &["*"]),
            hosts("example", &[]),
            hosts("eu.example", &[]),
            hosts("some", &["db?.test.example.com", "!db9.test.example.com"]),
        ];
        let lines: Vec<String> = Hosts::in_order(&all)
            .iter()
            .map(|(hosts, patterns)| hosts.lines(patterns))
            .collect();
        assert_eq!(
            lines,
            [
                "@cert-authority some,db?.test.example.com,!db9.test.example.com,![db9.test.example.com]:* key\n",
                "@cert-authority eu.example,*.eu.example key\n",
                "@cert-authority example,*.example,!*.eu.example,![*.eu.example]:* key\n",
                "@cert-authority all,*,!*.eu.example,!*.example,![*.eu.example]:*,![*.example]:* key\n",
            ]
        );
    }
}
