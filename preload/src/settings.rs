// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the environment asks for.

use std::env;
use std::fmt::Display;

use laio_engine::depth::{DEFAULT_MAX_DEPTH, LARGEST_MAX_DEPTH};

use crate::say::complain;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Guard,
    Engine,
    Off,
}

pub struct Settings {
    pub mode: Mode,
    /// How deep submission may nest.
    pub max_depth: u32,
    /// Whether to print statistics at exit.
    pub stats: bool,
}

impl Settings {
    /// Complains about a value that makes no sense and goes on with the default.
    pub fn from_environment() -> Self {
        Self {
            mode: variable("LAIO_PRELOAD", Mode::Guard, "guard", mode_of),
            max_depth: variable(
                "LAIO_MAX_SUBMIT_DEPTH",
                DEFAULT_MAX_DEPTH,
                DEFAULT_MAX_DEPTH,
                depth_of,
            ),
            stats: variable("LAIO_STATS", false, 0, switch_of),
        }
    }

    /// Whether guard mode is to say when it first meets the bound. The engine asks for itself.
    pub fn logs_bound() -> bool {
        variable("LAIO_LOG_BOUND", false, 0, switch_of)
    }
}

/// What `parse` makes of the variable; an error says what it should have been.
fn variable<T>(
    name: &str,
    default: T,
    default_name: impl Display,
    parse: impl Fn(&str) -> Result<T, String>,
) -> T {
    let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else {
        return default;
    };
    let value = value.to_string_lossy();
    parse(&value).unwrap_or_else(|wanted| {
        complain(format_args!("{name}={value:?} is not {wanted}; using {default_name}"));
        default
    })
}

fn mode_of(value: &str) -> Result<Mode, String> {
    match value {
        "guard" => Ok(Mode::Guard),
        "engine" => Ok(Mode::Engine),
        "off" => Ok(Mode::Off),
        _ => Err("guard, engine or off".into()),
    }
}

fn depth_of(value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(depth) if (1..=LARGEST_MAX_DEPTH).contains(&depth) => Ok(depth),
        _ => Err(format!("a number from 1 to {LARGEST_MAX_DEPTH}")),
    }
}

fn switch_of(value: &str) -> Result<bool, String> {
    match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err("0 or 1".into()),
    }
}
