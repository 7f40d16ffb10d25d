// SPDX-License-Identifier: MIT OR Apache-2.0

//! The linker's map: under which version the shared library exports each function.

use std::collections::BTreeMap;

use crate::Result;
use crate::functions::Function;

pub const PATH: &str = "src/laio.map";

const NOTE: &str = "\
/*
 * The version under which the shared library exports each function. Those that are new come in under the
 * version of Cargo.toml by `cargo run -p xtask -- header`; what stands here once never changes: programs
 * ask for it by both.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
";

/// The first and second number of a version: the third adds no function.
type Version = (u32, u32);

/// The map `committed`, with those of `functions` that it lacks in the node of `version`. A function
/// that it has and the header has not is an error: a program may need it.
pub fn extend(committed: &str, functions: &[Function], version: &str) -> Result<String> {
    let mut nodes = parse(committed)?;
    let mapped: Vec<String> = nodes.values().flatten().cloned().collect();
    if let Some(gone) = mapped.iter().find(|name| !functions.iter().any(|f| f.name == **name)) {
        return Err(format!("{gone} is in {PATH}, and the header does not have it any more").into());
    }
    let new = functions.iter().map(|f| &f.name).filter(|name| !mapped.contains(name));
    for name in new {
        nodes.entry(number(version)?).or_default().push(name.clone());
    }
    Ok(print(nodes))
}

fn number(version: &str) -> Result<Version> {
    let mut numbers = version.split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(format!("not a version: {version}").into()),
    }
}

fn parse(map: &str) -> Result<BTreeMap<Version, Vec<String>>> {
    let mut nodes = BTreeMap::new();
    let mut open = None;
    for line in map.lines().map(str::trim) {
        if let Some(version) = line.strip_prefix("LAIO_").and_then(|rest| rest.strip_suffix(" {")) {
            let version = number(version)?;
            nodes.insert(version, Vec::new());
            open = Some(version);
        } else if let Some(name) = line.strip_suffix(';').filter(|name| name.starts_with("laio_")) {
            let node = open.and_then(|version| nodes.get_mut(&version));
            node.ok_or_else(|| format!("{name} is in no version"))?.push(name.to_owned());
        }
    }
    Ok(nodes)
}

/// Each version inherits from the one before it; what none names is the library's own.
fn print(nodes: BTreeMap<Version, Vec<String>>) -> String {
    let mut text = NOTE.to_owned();
    let mut parent = String::new();
    for ((major, minor), mut names) in nodes {
        names.sort();
        text += &format!("\nLAIO_{major}.{minor} {{\nglobal:\n");
        for name in names {
            text += &format!("    {name};\n");
        }
        text += if parent.is_empty() { "local:\n    *;\n" } else { "" };
        text += &format!("}}{parent};\n");
        parent = format!(" LAIO_{major}.{minor}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions(names: &[&str]) -> Vec<Function> {
        let function = |name: &&str| Function {
            name: name.to_string(),
            prototype: String::new(),
            documentation: Vec::new(),
        };
        names.iter().map(function).collect()
    }

    #[test]
    fn what_has_a_version_keeps_it_and_what_is_new_gets_the_present_one() {
        let first = extend("", &functions(&["laio_b", "laio_a"]), "1.0.3").unwrap();
        assert!(
            first
                .ends_with("\nLAIO_1.0 {\nglobal:\n    laio_a;\n    laio_b;\nlocal:\n    *;\n};\n")
        );
        let second = extend(&first, &functions(&["laio_c", "laio_b", "laio_a"]), "1.2.0").unwrap();
        assert_eq!(second, format!("{first}\nLAIO_1.2 {{\nglobal:\n    laio_c;\n}} LAIO_1.0;\n"));
        // Again, in a later version: nothing moves.
        let functions = functions(&["laio_c", "laio_b", "laio_a"]);
        assert_eq!(extend(&second, &functions, "1.3.0").unwrap(), second);
    }

    #[test]
    fn a_function_that_is_gone_is_an_error() {
        let map = extend("", &functions(&["laio_a", "laio_b"]), "1.0.0").unwrap();
        let error = extend(&map, &functions(&["laio_a"]), "1.0.0").unwrap_err();
        assert!(error.to_string().contains("laio_b"), "{error}");
    }
}
