// SPDX-License-Identifier: MIT OR Apache-2.0

//! The simulator, with its decisions from the fuzzer instead of a seed.

#![no_main]
#![allow(dead_code)] // Seeds are the other program's.

#[path = "../../engine/tests/sim/acts.rs"]
mod acts;
#[path = "../../engine/tests/sim/config.rs"]
mod config;
#[path = "../../engine/tests/sim/coroutines.rs"]
mod coroutines;
#[path = "../../engine/tests/sim/event_loop.rs"]
mod event_loop;
#[path = "../../engine/tests/sim/fork.rs"]
mod fork;
#[path = "../../engine/tests/sim/host.rs"]
mod host;
#[path = "../../engine/tests/sim/kernel.rs"]
mod kernel;
#[path = "../../engine/tests/sim/manners.rs"]
mod manners;
#[path = "../../engine/tests/sim/model.rs"]
mod model;
#[path = "../../engine/tests/sim/requests.rs"]
mod requests;
#[path = "../../engine/tests/sim/scenario.rs"]
mod scenario;
#[path = "../../engine/tests/sim/states.rs"]
mod states;
#[path = "../../engine/tests/sim/tape.rs"]
mod tape;
#[path = "../../engine/tests/sim/transfer.rs"]
mod transfer;
#[path = "../../engine/tests/sim/world.rs"]
mod world;

use libfuzzer_sys::fuzz_target;

fn on_failure(world: &world::World, what: &str) -> ! {
    eprintln!("step {}: {what}", world.steps());
    std::process::abort()
}

fuzz_target!(|decisions: &[u8]| {
    scenario::run(tape::Tape::of_bytes(decisions), false, on_failure);
});
