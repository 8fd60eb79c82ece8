//! The same warning again and again is one line, and a number when some seconds are over.
//!
//! Two are the same if they come from the same place in the program with the same text; numbers, such as bytes and
//! times, may differ. What is kept is bounded: so many different ones from each place, and further ones are only
//! counted. Thus a place writes at most [`MOST`] lines at once, and 20 a second on end, whatever peers do.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;

use super::figure::Figure;
use super::said::{Said, USER, Value};

/// How long one is counted before the number is told.
const PERIOD: Duration = Duration::from_secs(10);

/// Different ones from one place in a period.
const MOST: usize = 200;

/// Users of one that are told apart.
const MOST_USERS: usize = 100;

/// What was said lately.
#[derive(Default)]
pub(super) struct Folds {
    places: HashMap<Identifier, Place>,
    hasher: RandomState,
    due: Option<Instant>,
}

/// Where in the program it was said.
#[derive(Default)]
struct Place {
    /// By the hash of their text.
    known: HashMap<u64, Entry>,
    others: Option<Entry>,
}

struct Entry {
    since: Instant,
    again: u64,
    users: Users,
    /// What to tell of those; kept from the second on.
    said: Option<Said>,
}

impl Folds {
    /// Whether `said` is to be left out, as it is counted.
    pub fn take(&mut self, at: Identifier, target: &str, said: &Said, now: Instant) -> bool {
        let key = self.key(said);
        let place = self.places.entry(at).or_default();
        if let Some(entry) = place.known.get_mut(&key) {
            entry.again += 1;
            entry.users.add(said.user);
            entry.said.get_or_insert_with(|| common(said));
            return true;
        }
        let entry = Entry {
            since: now,
            again: 0,
            users: Users::default(),
            said: None,
        };
        let is_one_too_many = place.known.len() >= MOST;
        if is_one_too_many {
            let others = place.others.get_or_insert(entry);
            others.again += 1;
            others.said.get_or_insert_with(|| Said {
                level: said.level,
                message: format!("more lines of {target} were left out"),
                fields: Vec::new(),
                user: None,
            });
        } else {
            place.known.insert(key, entry);
        }
        self.due.get_or_insert(now + PERIOD);
        is_one_too_many
    }

    /// When there may be something to tell.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What was counted in periods that are over by now; with `all`, in all.
    pub fn told(&mut self, now: Instant, all: bool) -> Vec<Said> {
        let mut told = Vec::new();
        if !all && self.due.is_none_or(|due| now < due) {
            return told;
        }
        let mut due: Option<Instant> = None;
        // Whether it is to be kept.
        let mut look = |entry: &mut Entry, is_others: bool| {
            let period = now.saturating_duration_since(entry.since);
            if all || period >= PERIOD {
                let Some(said) = entry.said.take() else {
                    return false;
                };
                let again = std::mem::take(&mut entry.again);
                let users = std::mem::take(&mut entry.users);
                told.push(match is_others {
                    true => left_out(said, again, period),
                    false => repeated(said, again, users, period),
                });
                entry.since = now;
                if is_others {
                    return false;
                }
            }
            let next = entry.since + PERIOD;
            due = Some(due.map_or(next, |due| due.min(next)));
            true
        };
        self.places.retain(|_, place| {
            place.known.retain(|_, entry| look(entry, false));
            place.others.take_if(|others| !look(others, true));
            !place.known.is_empty() || place.others.is_some()
        });
        self.due = due;
        told
    }

    fn key(&self, said: &Said) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        said.message.hash(&mut hasher);
        for (name, value) in &said.fields {
            if let Value::Text(text) = value {
                (name, text).hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

/// Whose those are that are the same.
#[derive(Default)]
struct Users {
    known: Vec<u64>,
    /// There was one that names nobody.
    unknown: bool,
}

impl Users {
    fn add(&mut self, user: Option<u64>) {
        let Some(user) = user else {
            self.unknown = true;
            return;
        };
        if self.known.len() < MOST_USERS && !self.known.contains(&user) {
            self.known.push(user);
        }
    }
}

/// What is so of all that are the same. Of a long message there is less, so that behind it their number is seen.
fn common(said: &Said) -> Said {
    const LONGEST: usize = 512;
    let mut message = said.message.clone();
    if message.len() > LONGEST {
        message.truncate(message.floor_char_boundary(LONGEST));
        message.push('…');
    }
    let is_text = |field: &&(_, Value)| matches!(field.1, Value::Text(_));
    Said {
        level: said.level,
        message,
        fields: said.fields.iter().filter(is_text).cloned().collect(),
        user: None,
    }
}

fn repeated(mut said: Said, again: u64, users: Users, period: Duration) -> Said {
    let times = if again == 1 { "time" } else { "times" };
    let mut by = String::new();
    match &users.known[..] {
        // Whatever is said would not be so of all.
        _ if users.unknown => {}
        [] => {}
        [user] => said.fields.push((USER, figure(*user))),
        all => {
            let more = if all.len() < MOST_USERS {
                ""
            } else {
                " or more"
            };
            by = format!(", by {}{more} users", all.len());
            said.fields.push(("users", figure(all.len() as u64)));
        }
    }
    let seconds = seconds(period);
    said.message = format!(
        "{} (repeated {again} {times} in {seconds} s{by})",
        said.message
    );
    said.fields.push(("repeated", figure(again)));
    said
}

fn left_out(mut said: Said, again: u64, period: Duration) -> Said {
    said.message = format!("{again} {} in {} s", said.message, seconds(period));
    said.fields.push(("left_out", figure(again)));
    said
}

fn figure(value: u64) -> Value {
    Value::Figure(Figure::Unsigned(value))
}

fn seconds(period: Duration) -> f64 {
    period.as_secs_f64().round().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::line::Style;
    use tracing::callsite::Callsite;
    use tracing::{Level, Metadata};

    struct Here(u8);

    impl Callsite for Here {
        fn set_interest(&self, _: tracing::subscriber::Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("nobody asks")
        }
    }

    static HERE: Here = Here(1);
    static THERE: Here = Here(2);

    fn said(text: &str, request: &str, sent: u32) -> Said {
        Said {
            level: Level::WARN,
            message: text.into(),
            fields: vec![
                ("request", Value::Text(request.into())),
                ("sent", figure(sent.into())),
            ],
            user: None,
        }
    }

    fn messages(told: Vec<Said>) -> Vec<String> {
        told.into_iter().map(|said| said.message).collect()
    }

    #[test]
    fn the_same_text_from_the_same_place_is_counted_until_the_period_is_over() {
        assert_eq!((HERE.0, THERE.0), (1, 2), "two that are not one in memory");
        let (here, there) = (Identifier(&HERE), Identifier(&THERE));
        let (mut folds, now) = (Folds::default(), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        let take = |folds: &mut Folds, at: &Identifier, said: &Said, now| {
            folds.take(at.clone(), "tbot::x", said, now)
        };
        assert_eq!(folds.due(), None);
        assert!(!take(&mut folds, &here, &said("down", "db1", 1), now));
        assert!(take(&mut folds, &here, &said("down", "db1", 2), later(1)));
        assert!(take(&mut folds, &here, &said("down", "db1", 3), later(9)));
        assert!(!take(&mut folds, &here, &said("down", "db2", 1), later(9)));
        assert!(!take(&mut folds, &here, &said("up", "db1", 1), later(9)));
        assert!(!take(&mut folds, &there, &said("down", "db1", 1), later(9)));
        assert!(folds.told(later(9), false).is_empty());
        assert_eq!(folds.due(), Some(later(10)));
        let told = folds.told(later(10), false);
        assert_eq!(
            told[0].fields,
            [
                ("request", Value::Text("db1".into())),
                ("repeated", figure(2))
            ]
        );
        assert_eq!(messages(told), ["down (repeated 2 times in 10 s)"]);
        // It is counted on, and forgotten only after a period without it.
        assert!(take(&mut folds, &here, &said("down", "db1", 1), later(11)));
        assert!(folds.told(later(19), false).is_empty());
        assert_eq!(
            messages(folds.told(later(20), false)),
            ["down (repeated 1 time in 10 s)"]
        );
        assert!(folds.told(later(30), false).is_empty());
        assert_eq!(folds.due(), None);
        assert!(folds.places.is_empty());
        assert!(!take(&mut folds, &here, &said("down", "db1", 1), later(31)));
        assert!(take(&mut folds, &here, &said("down", "db1", 1), later(33)));
        assert_eq!(
            messages(folds.told(later(34), true)),
            ["down (repeated 1 time in 3 s)"]
        );
    }

    #[test]
    fn a_user_is_told_of_those_that_are_one_user_s_alone() {
        let (now, mut all) = (Instant::now(), Vec::new());
        let by = |user: Option<u64>| {
            let mut said = said("down", "db1", 1);
            said.user = user;
            said.fields.extend(user.map(|user| (USER, figure(user))));
            said
        };
        let none: [Option<u64>; 2] = [None, None];
        let many: Vec<_> = (0..50_000).map(|n| Some(n % 1000)).collect();
        for users in [
            &none[..],
            &[Some(0), Some(7), Some(7)],
            &[Some(0), Some(7), Some(8), Some(7)],
            &[Some(0), Some(7), None],
            &many,
        ] {
            let mut folds = Folds::default();
            for (n, user) in users.iter().enumerate() {
                let folded = folds.take(Identifier(&HERE), "tbot::x", &by(*user), now);
                assert_eq!(folded, n > 0);
            }
            all.extend(folds.told(now + PERIOD, false));
            // The next period has its own.
            folds.take(Identifier(&HERE), "tbot::x", &by(Some(9)), now + PERIOD);
            let next = folds.told(now + 2 * PERIOD, false);
            assert_eq!(next[0].fields[1], (USER, figure(9)));
        }
        let shown = |said: &Said| match &said.fields[1] {
            (name, Value::Figure(Figure::Unsigned(value))) => format!("{name}={value}"),
            other => panic!("{other:?}"),
        };
        let figures: Vec<String> = all.iter().map(shown).collect();
        assert_eq!(
            figures,
            ["repeated=1", "uid=7", "users=2", "repeated=2", "users=100"]
        );
        assert_eq!(
            messages(all),
            [
                "down (repeated 1 time in 10 s)",
                "down (repeated 2 times in 10 s)",
                "down (repeated 3 times in 10 s, by 2 users)",
                "down (repeated 2 times in 10 s)",
                "down (repeated 49999 times in 10 s, by 100 or more users)",
            ]
        );
    }

    #[test]
    fn the_number_is_seen_behind_an_endless_message() {
        let (mut folds, now) = (Folds::default(), Instant::now());
        for _ in 0..3 {
            let said = said(&"\x1b".repeat(4096), "db1", 1);
            folds.take(Identifier(&HERE), "tbot::x", &said, now);
        }
        let told = folds.told(now + PERIOD, false);
        let line = crate::logging::line::of_said(Style::Json, &told[0]);
        let line = String::from_utf8(line).expect("UTF-8");
        assert!(line.contains("… (repeated 2 times in 10 s)\""), "{line}");
    }

    #[test]
    fn different_ones_without_end_are_a_number_in_the_end() {
        let (mut folds, now) = (Folds::default(), Instant::now());
        let mut lines = 0;
        for n in 0..100_000 {
            let said = said("down", &format!("db{n}"), 1);
            lines += usize::from(!folds.take(Identifier(&HERE), "tbot::x", &said, now));
        }
        // Another place has its own.
        assert!(!folds.take(Identifier(&THERE), "tbot::y", &said("up", "", 1), now));
        assert_eq!(lines, MOST);
        assert_eq!(
            folds
                .places
                .values()
                .map(|place| place.known.len())
                .sum::<usize>(),
            MOST + 1
        );
        let told = messages(folds.told(now + PERIOD, false));
        assert_eq!(told, ["99800 more lines of tbot::x were left out in 10 s"]);
        assert!(folds.places.is_empty());
    }
}
