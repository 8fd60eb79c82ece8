//! What fuzzers try, one function for each kind of input from outside: it panics where the input makes our code
//! do what it must not. `tests/fuzz/` runs them with libFuzzer, and the tests here with the inputs in its corpus.
//!
//! | Target | Whose bytes |
//! |---|---|
//! | [`request_head`] | Whoever reaches the port of the diagnostics |
//! | [`v1_request`] | A client of `v1.sock` |
//! | [`agent_messages`] | A client of `agent.sock` |
//! | [`mux_replies`] | An `ssh` that holds a connection to a bastion |
//! | [`configuration`] | A configuration file |
//! | [`proxy_template`] | A template, and the target it is tried on |

mod agent;
mod configuration;
#[cfg(test)]
mod corpus;
mod head;
mod mux;
mod template;
mod v1;

pub use agent::agent_messages;
pub use configuration::configuration;
pub use head::request_head;
pub use mux::mux_replies;
pub use template::proxy_template;
pub use v1::v1_request;

/// Where to cut `data` in two, for what arrives in pieces: everywhere, of much of it at some places that depend on it.
fn cuts(data: &[u8]) -> Vec<usize> {
    const MOST: usize = 8;
    if data.len() <= 4 * MOST {
        return (0..=data.len()).collect();
    }
    let mut random = Random::of(data);
    let any = (0..MOST).map(|_| random.below(data.len()));
    [0, 1, data.len() - 1, data.len()]
        .into_iter()
        .chain(any)
        .collect()
}

/// Numbers that look like any (xorshift64*, Vigna 2016), the same ones for the same seed.
struct Random(u64);

impl Random {
    /// Seeded by all of `data` (FNV-1a).
    fn of(data: &[u8]) -> Self {
        let hash = data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        // Of 0 there would come nothing but 0.
        Self(hash | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }
}
