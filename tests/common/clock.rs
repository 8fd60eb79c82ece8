//! The clock of the wall as a program sees it, which a test sets.

use std::fs;

use super::keys::Keys;
use super::tbot::{Start, Tbot};

/// A library that adds to the clock of the wall what a file says. The one that only runs is left alone: no kernel
/// sets it, and it stands still while a machine sleeps, so to one that wakes the other has jumped.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    char text[32] = {0};
    int file = clock == CLOCK_REALTIME ? open(getenv("CLOCK_FILE"), O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) { if (read(file, text, 31) > 0) time->tv_sec += atol(text); close(file); }
    return result;
}
"#;

/// A clock to set, and keys.
pub struct Clock {
    pub keys: Keys,
    pub variables: [(&'static str, String); 2],
}

impl Clock {
    pub fn new() -> Self {
        let keys = Keys::with_ca();
        keys.library("clock", CLOCK);
        let path = |name| keys.path(name).display().to_string();
        let variables = [
            ("LD_PRELOAD", path("clock.so")),
            ("CLOCK_FILE", path("clock")),
        ];
        let clock = Self { keys, variables };
        clock.set(0);
        clock
    }

    /// To what it is elsewhere, and so many seconds more.
    pub fn set(&self, seconds: i64) {
        let new = self.keys.write("clock.new", seconds.to_string());
        fs::rename(new, self.keys.path("clock")).expect("ours");
    }

    pub fn start(&self, start: Start) -> Tbot {
        let set = |start: Start, (name, value): &(&str, String)| start.env(name, value);
        self.variables.iter().fold(start, set).start()
    }
}
