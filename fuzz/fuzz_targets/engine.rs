// SPDX-License-Identifier: MIT OR Apache-2.0

//! The simulator, with its decisions from the fuzzer instead of a seed.

#![no_main]
#![allow(dead_code)] // Seeds are the other program's.

#[path = "../../tests/sim/host.rs"]
mod host;
#[path = "../../tests/sim/kernel.rs"]
mod kernel;
#[path = "../../tests/sim/model.rs"]
mod model;
#[path = "../../tests/sim/scenario.rs"]
mod scenario;
#[path = "../../tests/sim/tape.rs"]
mod tape;
#[path = "../../tests/sim/world.rs"]
mod world;

use libfuzzer_sys::fuzz_target;

fn on_failure(world: &world::World, what: &str) -> ! {
    eprintln!("step {}: {what}", world.steps());
    std::process::abort()
}

fuzz_target!(|decisions: &[u8]| {
    scenario::run(tape::Tape::of_bytes(decisions), false, on_failure);
});
