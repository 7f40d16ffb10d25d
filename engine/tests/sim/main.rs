// SPDX-License-Identifier: MIT OR Apache-2.0

//! The engine under a simulated kernel and host: every order and every fault from a seed.
//!
//! `LAIO_SIM_COUNT=n` sets the number of scenarios, `LAIO_SIM_FIRST=n` the first seed,
//! `LAIO_SIM_SECONDS=n` a time instead of a number, and `LAIO_SIM_SEED=n` replays one scenario with
//! its trace. See docs/testing.md.

mod acts;
mod config;
mod coroutines;
mod event_loop;
mod fork;
mod host;
mod kernel;
mod manners;
mod model;
mod requests;
mod run;
mod scenario;
mod shrink;
mod states;
mod tape;
mod transfer;
mod world;

fn main() {
    run::main();
}
