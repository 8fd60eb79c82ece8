//! Proxy templates: how a target becomes another one, of another cluster.
//!
//! As in the original, which is of Go: expressions are RE2's, as far as the crate goes (no `\p{…}`, no `\Q…\E`;
//! `\w`, `\d` and `\s` are of ASCII), a match may begin anywhere, and what takes the target's place is filled in by
//! the rules of Go's regexp.Expand.

use regex_lite::{Captures, Regex, RegexBuilder};

use super::request::number;

/// Of a compiled expression. It is tried on the thread that sets connections up, for a time that is its size times
/// the target's: the worst expression of this size takes some 40 ms for the longest target.
const MAX_SIZE: usize = 128 << 10;

/// Of what an expression is tried on, and of what comes out. A host's name has at most 253 bytes.
const LONGEST: usize = 512;

/// Rewrites targets in which its expression finds a match.
#[derive(Clone, Debug)]
pub struct Template {
    expression: Regex,
    host: Option<String>,
    cluster: Option<String>,
    proxy: Option<String>,
}

/// What a template makes of a target; `None`: that stays as it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Rewritten {
    /// Name or address, without brackets, and the port if another was given.
    pub host: Option<(String, Option<u16>)>,
    /// The cluster's name.
    pub cluster: Option<String>,
    /// Its bastion: host, or `host:port`.
    pub proxy: Option<String>,
}

impl Template {
    /// Finds `expression` in `host:port`, and puts each of the others in place of what it is named for, with
    /// `$1` and `${name}` filled in.
    ///
    /// # Errors
    ///
    /// Why the expression is none, or too large: a part of a sentence.
    pub fn new(
        expression: &str,
        host: Option<String>,
        cluster: Option<String>,
        proxy: Option<String>,
    ) -> Result<Self, String> {
        let mut builder = RegexBuilder::new(expression);
        let expression = builder.size_limit(MAX_SIZE).build();
        Ok(Self {
            expression: expression.map_err(|error| error.to_string())?,
            host,
            cluster,
            proxy,
        })
    }

    /// What becomes of `target`; `None` where it does not match. The error is a sentence.
    pub(crate) fn apply(&self, target: &str) -> Option<Result<Rewritten, String>> {
        if target.len() > LONGEST {
            let why = format!("it is longer than the {LONGEST} bytes that proxy templates look at");
            return Some(Err(why));
        }
        let captures = self.expression.captures(target)?;
        Some(self.rewrite(&captures))
    }

    fn rewrite(&self, captures: &Captures) -> Result<Rewritten, String> {
        let fill = |text: &Option<String>| match text {
            Some(text) => self.expand(text, captures).map(Some),
            None => Ok(None),
        };
        let host = match fill(&self.host)? {
            Some(text) => Some(host_and_port(&text).ok_or_else(|| {
                format!("{self} makes {text:?} of it, which is no host and no host:port")
            })?),
            None => None,
        };
        Ok(Rewritten {
            host,
            cluster: fill(&self.cluster)?,
            proxy: fill(&self.proxy)?,
        })
    }

    /// Go's regexp.Expand: `$$` is a `$`; a name is as long as letters, digits and `_` go on, so `$1x` is `${1x}`;
    /// what names no group, or one without a match, is nothing; any other `$` stays.
    fn expand(&self, text: &str, captures: &Captures) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('$') {
            filled.push_str(before);
            rest = behind;
            if let Some(behind) = rest.strip_prefix('$') {
                filled.push('$');
                rest = behind;
            } else if let Some((name, behind)) = reference(rest) {
                filled.push_str(self.group(name, captures));
                rest = behind;
            } else {
                filled.push('$');
            }
            if filled.len() > LONGEST {
                break;
            }
        }
        filled.push_str(rest);
        if filled.len() > LONGEST {
            return Err(format!("{self} makes more than {LONGEST} bytes of it"));
        }
        Ok(filled)
    }

    fn group<'t>(&self, name: &str, captures: &Captures<'t>) -> &'t str {
        // A number has no leading zero.
        let is_number = name == "0" || !name.starts_with('0');
        let number = name.bytes().all(|byte| byte.is_ascii_digit()) && is_number;
        let group = match number {
            true => name
                .parse()
                .ok()
                .and_then(|number: usize| captures.get(number)),
            false => captures.name(name),
        };
        group.map_or("", |group| group.as_str())
    }
}

/// The name at the beginning of `text`, in braces or not, and what is behind it.
fn reference(text: &str) -> Option<(&str, &str)> {
    let is_of_a_name = |c: char| c.is_alphanumeric() || c == '_';
    let (inner, brace) = match text.strip_prefix('{') {
        Some(inner) => (inner, true),
        None => (text, false),
    };
    let end = inner.find(|c| !is_of_a_name(c)).unwrap_or(inner.len());
    let (name, behind) = inner.split_at(end);
    let behind = if brace {
        behind.strip_prefix('}')?
    } else {
        behind
    };
    (!name.is_empty()).then_some((name, behind))
}

/// `host`, `host:port`, or an IPv6 address, which needs its brackets before a port.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let is_v6 = |text: &str| {
        let address = text.split_once('%').map_or(text, |(address, _)| address);
        address.parse::<std::net::Ipv6Addr>().is_ok()
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(inner) => {
            let (host, behind) = inner.split_once(']')?;
            (
                host,
                behind
                    .strip_prefix(':')
                    .or(behind.is_empty().then_some(""))?,
            )
        }
        None if is_v6(text) => (text, ""),
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let has_port = text.ends_with(':') || !port.is_empty();
    let port = match has_port {
        true => Some(number(port)?),
        false => None,
    };
    let is_odd = |c: char| c.is_control() || c.is_whitespace() || "[]|".contains(c);
    let good = !host.is_empty() && !host.contains(is_odd) && (!host.contains(':') || is_v6(host));
    good.then(|| (host.to_owned(), port))
}

/// As messages name it.
impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the proxy template {:?}", self.expression.as_str())
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        let parts = |one: &Self| (one.host.clone(), one.cluster.clone(), one.proxy.clone());
        self.expression.as_str() == other.expression.as_str() && parts(self) == parts(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(expression: &str, text: &str, target: &str) -> String {
        let template = Template::new(expression, None, Some(text.into()), None);
        let template = template.expect("the expression is right");
        let rewritten = template.apply(target).expect("it matches");
        rewritten.expect("it is short").cluster.unwrap_or_default()
    }

    #[test]
    fn parts_are_filled_in_by_the_rules_of_go() {
        const EXPRESSION: &str = r"^(\w+)\.(?P<site>\w+)(\.gone)?:(\d+)$";
        for (text, filled) in [
            ("$1", "db1"),
            ("${1}x", "db1x"),
            // The longest name: `${1x}`, which there is not.
            ("$1x", ""),
            ("$1_", ""),
            ("$1-$2", "db1-prod"),
            ("$1.${site}:$4", "db1.prod:22"),
            ("$site", "prod"),
            ("$0", "db1.prod:22"),
            ("a$3b", "a"),
            ("a${3}b", "ab"),
            ("$9", ""),
            ("${9}9", "9"),
            ("$none", ""),
            ("$01", ""),
            ("$99999999999999999999", ""),
            ("$$1", "$1"),
            ("$", "$"),
            ("a$", "a$"),
            ("$-1", "$-1"),
            ("${", "${"),
            ("${1", "${1"),
            ("${}", "${}"),
            ("${1 }", "${1 }"),
            ("$ä", ""),
            ("", ""),
        ] {
            assert_eq!(expanded(EXPRESSION, text, "db1.prod:22"), filled, "{text}");
        }
    }

    #[test]
    fn an_expression_is_found_anywhere_as_in_re2() {
        for (expression, target, found) in [
            ("prod", "db1.prod.example:22", true),
            ("^prod", "db1.prod.example:22", false),
            ("(?i)PROD", "db1.prod:22", true),
            (":22$", "db1:2222", false),
            (r"\A[[:alpha:]]+\d\b", "db1:22", true),
            (r"^\[::1\]:22$", "[::1]:22", true),
            (r"(?:a|b){2,3}?\z", "aab", true),
            ("^d.1", "dä1:22", true),
        ] {
            let template = Template::new(expression, None, Some("x".into()), None);
            let template = template.unwrap_or_else(|error| panic!("{expression}: {error}"));
            assert_eq!(template.apply(target).is_some(), found, "{expression}");
        }
    }

    #[test]
    fn what_comes_out_is_a_host_and_perhaps_a_port() {
        for (text, expected) in [
            ("db1", Some(("db1", None))),
            ("db1:2222", Some(("db1", Some(2222)))),
            ("10.0.0.1:22", Some(("10.0.0.1", Some(22)))),
            ("::1", Some(("::1", None))),
            ("[::1]", Some(("::1", None))),
            ("[fe80::1%eth0]:22", Some(("fe80::1%eth0", Some(22)))),
            ("", None),
            (":22", None),
            ("db1:", None),
            ("db1:0", None),
            ("db1:65536", None),
            ("db1:+22", None),
            ("db1:22:22", None),
            ("[::1]22", None),
            ("[::1", None),
            ("[]:22", None),
            ("[a:b]:22", None),
            ("db 1", None),
            ("db|1", None),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(host_and_port(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let of = |expression: &str| Template::new(expression, Some("$1".repeat(500)), None, None);
        let error = of("((a{100}){100}){100}").expect_err("it is too large");
        assert!(error.contains("size limit"), "{error}");
        let template = of("^(.*)$").expect("it is right");
        for length in [100, 2000] {
            let result = template.apply(&"a".repeat(length));
            assert!(matches!(result, Some(Err(_))), "{length}");
        }
    }
}
