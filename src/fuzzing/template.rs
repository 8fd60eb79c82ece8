//! Proxy templates: an expression, what takes the target's place, and a target, a line each.

use std::time::Duration;

use regex_lite::{Captures, Regex};
use rustix::time::{ClockId, clock_gettime};

use crate::multiplexer::Template;
use crate::multiplexer::request::{Request, host_port};

/// Of one target, however it is written: it is the time of all others, too. A build for fuzzing is some twenty times
/// slower than the program.
const MOST_TIME: Duration = Duration::from_secs(5);

/// What a template makes is what the rules of Go's regexp.Expand make, is bounded in size and time, and as a host it
/// is one that can be asked for.
pub fn proxy_template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.splitn(3, '\n');
    let mut next = || lines.next().unwrap_or_default();
    let (expression, filling, target) = (next(), next(), next());
    let template = |host: Option<&str>, cluster: Option<&str>| {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Template::new(expression, owned(host), owned(cluster), None)
    };
    let Ok(as_cluster) = template(None, Some(filling)) else {
        return;
    };
    let begin = thread_time();
    let made = as_cluster.apply(target);
    let took = thread_time().saturating_sub(begin);
    assert!(took < MOST_TIME, "{took:?}");
    let captures = Regex::new(expression).ok();
    let captures = captures.as_ref().and_then(|regex| regex.captures(target));
    match made {
        None => assert!(captures.is_none(), "it matches"),
        Some(Err(why)) => assert!(
            target.len() > 512 || expand(filling, &captures).len() > 512,
            "{why}"
        ),
        Some(Ok(rewritten)) => {
            let cluster = rewritten.cluster.expect("it was asked for");
            assert_eq!(cluster, expand(filling, &captures));
            assert!(cluster.len() <= 512);
        }
    }
    let as_host = template(Some(filling), None).expect("the same expression");
    if let Some(Ok(rewritten)) = as_host.apply(target) {
        let (host, port) = rewritten.host.expect("it was asked for");
        let shown = host_port(&host, port.unwrap_or(22));
        let request = Request::parse(shown.as_bytes());
        let request = request.unwrap_or_else(|why| panic!("{shown:?} is no request: {why}"));
        assert_eq!((request.host, request.port), (host, port.unwrap_or(22)));
    }
}

fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// The rules once more, character by character.
fn expand(filling: &str, captures: &Option<Captures>) -> String {
    let mut made = String::new();
    let mut left: Vec<char> = filling.chars().rev().collect();
    while let Some(c) = left.pop() {
        if c != '$' {
            made.push(c);
            continue;
        }
        if left.last() == Some(&'$') {
            left.pop();
            made.push('$');
            continue;
        }
        let before = left.clone();
        let braced = left.last() == Some(&'{');
        if braced {
            left.pop();
        }
        let mut name = String::new();
        while let Some(&c) = left.last()
            && (c == '_' || c.is_alphanumeric())
        {
            name.push(c);
            left.pop();
        }
        let closed = !braced || left.pop() == Some('}');
        if name.is_empty() || !closed {
            // It names nothing, and so it is a `$` and what follows it.
            left = before;
            made.push('$');
            continue;
        }
        let Some(captures) = captures else { continue };
        let number = name
            .parse()
            .ok()
            .filter(|number: &usize| number.to_string() == name);
        let group = match number {
            Some(number) => captures.get(number),
            None => captures.name(&name),
        };
        made.push_str(group.map_or("", |group| group.as_str()));
    }
    made
}
