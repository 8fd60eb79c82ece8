//! In place of `pprof` where that feature is off: nothing can turn profiles on.

use super::request::Request;
use super::routes::Answer;

pub(super) const HOW_TO_ENABLE: &str = "this program was built without the cargo feature pprof";

#[derive(Clone, Debug)]
pub(super) enum Profiling {}

impl Profiling {
    pub fn set_host(&mut self, _: &str) {
        match *self {}
    }

    pub fn answer<'a>(&self, _: &'a Request<'a>) -> Answer<'a> {
        match *self {}
    }
}
